# shellcheck shell=bash
# Sourced by the scripts beside it. Everything made here lies below CACHE, is root's and readable by all: processes
# that changed their uid run from it, and sshd refuses helpers that others could have written.

# No python, pip or tool of the caller's own: what runs as root below comes from root's directories.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL=C.UTF-8 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_INPUT=1
unset PYTHONPATH PYTHONHOME PYTHONSTARTUP VIRTUAL_ENV
umask 022

PYTHON=/usr/bin/python3
CACHE=/var/cache/hatchway-dev
CHECKOUT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
RUN=
VENV=

# shellcheck disable=SC2034  # for the scripts that source this
# What a hatchway needs to run, and what its dependencies need to build (pyfuse3 has no wheels).
RUNTIME_PACKAGES=(fuse3 libnss-systemd openssh-client openssh-server)
# shellcheck disable=SC2034
BUILD_PACKAGES=(gcc libc6-dev libfuse3-dev pkg-config python3 python3-dev python3-venv)

if [[ -t 1 && -z ${NO_COLOR-} && ${TERM-dumb} != dumb ]]; then
    BOLD=$'\e[1m' GREEN=$'\e[32m' RED=$'\e[31m' PLAIN=$'\e[0m'
else
    BOLD='' GREEN='' RED='' PLAIN=''
fi

step() { printf '%s==>%s %s%s\n' "$GREEN$BOLD" "$PLAIN$BOLD" "$*" "$PLAIN"; }
note() { printf '    %s\n' "$*"; }
complain() { printf '%s%s: %s%s\n' "$RED" "${0##*/}" "$*" "$PLAIN" >&2; }

die() {
    complain "$@"
    exit 1
}

need_root() {
    [[ $EUID -eq 0 ]] || die "this needs root: run it with sudo"
}

ensure_cache() {
    [[ ! -L $CACHE ]] || die "$CACHE is a symbolic link; remove it"
    install -d -m 0755 -o root -g root "$CACHE"
}

# Put the file $1 on standard error, its last $2 lines.
tail_of() {
    printf '    --- the last lines of %s\n' "$1" >&2
    tail -n "${2:-30}" "$1" | sed 's/^/    | /' >&2
}

installed_packages() {
    # shellcheck disable=SC2016
    dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p' | sort -u
}

# The names of the system's services as policy-rc.d is asked for them.
known_services() {
    find /etc/init.d /etc/systemd/system /lib/systemd/system /usr/lib/systemd/system -maxdepth 1 \
        \( -type f -o -type l \) -printf '%f\n' 2>/dev/null | sed 's/\.service$//' | sort -u
}

# Install those of the packages that are missing. Their services are neither started nor enabled.
ensure_packages() {
    local -a missing
    mapfile -t missing < <(comm -13 <(installed_packages) <(printf '%s\n' "$@" | sort -u))
    ((${#missing[@]})) || return 0
    command -v apt-get >/dev/null ||
        die "these packages are missing, and without apt-get this script cannot install them: ${missing[*]}"
    ensure_cache
    note "installing packages: ${missing[*]}"
    (
        exec 8>"$CACHE/packages.lock"
        flock 8
        log=$CACHE/packages.log
        policy=/usr/sbin/policy-rc.d
        saved=$policy.hatchway-saved
        mark='# hatchway-dev: put here while packages are installed'

        restore() {
            if grep -qsxF "$mark" "$policy"; then rm -f "$policy"; fi
            if [[ -e $saved ]]; then mv -f "$saved" "$policy"; fi
        }
        # A run that was killed may have left its guard.
        restore
        trap restore EXIT
        trap 'exit 130' INT TERM HUP

        known_services >"$CACHE/services.before"
        installed_packages >"$CACHE/packages.before"
        if [[ -e $policy || -L $policy ]]; then mv "$policy" "$saved"; fi
        # 101: the action is forbidden (/usr/share/doc/init-system-helpers/README.policy-rc.d.gz). Services the
        # machine had before keep its own policy: an upgrade may still restart them.
        cat >"$policy" <<GUARD
#!/bin/sh
$mark
for word; do case \$word in -*) ;; *) break ;; esac; done
grep -qxF "\${word%.service}" '$CACHE/services.before' || exit 101
[ ! -x '$saved' ] || exec '$saved' "\$@"
exit 0
GUARD
        chmod 0755 "$policy"

        export DEBIAN_FRONTEND=noninteractive DEBIAN_PRIORITY=critical NEEDRESTART_SUSPEND=1
        options=(-y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 -o APT::Install-Recommends=false
            -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold)
        if ! { apt-get "${options[@]}" update && apt-get "${options[@]}" install "${missing[@]}"; } \
            >"$log" 2>&1 </dev/null 8>&-; then
            tail_of "$log"
            die "apt-get could not install: ${missing[*]}"
        fi
        leave_services_off
    ) || exit
}

# What the packages just installed have enabled for the next boot is disabled again; systemd's own parts, which a bare
# root gets with libnss-systemd, are not meant. systemctl does this without a running systemd too.
leave_services_off() {
    local package unit
    local -a left=()
    command -v systemctl >/dev/null || return 0
    while read -r package; do
        while read -r unit; do
            if systemctl --quiet is-enabled "$unit" 2>/dev/null; then
                systemctl --quiet disable "$unit" >/dev/null 2>&1
                left+=("${unit%.service}")
            fi
        done < <(dpkg -L "$package" | sed -nE 's#^(/usr)?/lib/systemd/system/([^/@]+\.(service|socket|timer))$#\2#p' | sort -u)
    done < <(comm -13 "$CACHE/packages.before" <(installed_packages) | grep -vE '^(systemd|udev|dbus|init)')
    ((${#left[@]})) || return 0
    note "installed but left off: ${left[*]} (to use one of them: systemctl enable --now NAME)"
}

# $RUN: this run's own directory. Those of runs that are gone are removed: as long as a process of a run lives, it has
# the directory open and locked. A pid in the name would not do, since runs may be in different pid namespaces.
make_run_dir() {
    local old lock
    ensure_cache
    exec 7>"$CACHE/runs.lock"
    flock 7
    for old in "$CACHE"/run.*; do
        if [[ -d $old ]] && flock --nonblock "$old" true; then rm -rf --one-file-system -- "$old"; fi
    done
    RUN=$(mktemp -d "$CACHE/run.XXXXXX")
    chmod 0755 "$RUN"
    exec {lock}<"$RUN"
    flock "$lock"
    exec 7>&-
}

# Copy the checkout to $1, as root's and readable by all whatever it was here, without what tools leave in it. git is
# not asked: it refuses a checkout that belongs to somebody else.
copy_checkout() {
    mkdir -p "$1"
    tar -C "$CHECKOUT" --exclude-vcs --exclude='__pycache__' --exclude='*.pyc' --exclude='*.egg-info' \
        --exclude='./dist' --exclude='./build' --exclude='./vagrant/boxes' --exclude='.vagrant' --exclude='.*_cache' --exclude='.hypothesis' --exclude='.venv' \
        --owner=0 --group=0 --mode='u+rwX,go=rX' -cf - . | tar -C "$1" --no-same-owner -xpf -
}

# $VENV: a venv with what pyproject.toml asks for, with the extras named, but without the checkout's own package.
# It is made once and not changed any more, so any number of runs can use it at the same time.
ensure_venv() {
    local requirements key
    ensure_cache
    requirements=$("$PYTHON" -I - "$CHECKOUT/pyproject.toml" "$@" <<'EOP'
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    data = tomllib.load(file)
project = data["project"]
wanted = data["build-system"]["requires"] + project["dependencies"]
for extra in sys.argv[2:]:
    wanted += project["optional-dependencies"][extra]
print("\n".join(sorted(set(wanted))))
EOP
    ) || die "cannot read $CHECKOUT/pyproject.toml"
    key=$({ echo "$requirements"; "$PYTHON" -VV; uname -m; } | sha256sum | cut -c 1-12)
    VENV=$CACHE/venv-$key
    (
        exec 8>"$CACHE/venv-$key.lock"
        flock 8
        [[ ! -e $VENV/.complete ]] || exit 0
        log=$CACHE/venv-$key.log
        note "making $VENV (about a minute, once)"
        rm -rf -- "$VENV"
        # In place: a venv cannot be moved. The mark is set last, so one cut short is made again.
        echo "$requirements" >"$CACHE/venv-$key.txt"
        if ! { "$PYTHON" -I -m venv "$VENV" && "$VENV/bin/python" -I -m pip install --cache-dir "$CACHE/pip" \
            -r "$CACHE/venv-$key.txt"; } >"$log" 2>&1 </dev/null 8>&-; then
            tail_of "$log"
            die "cannot make the Python environment $VENV"
        fi
        touch "$VENV/.complete"
    ) || exit
    touch "$VENV/.used"
    find "$CACHE" -maxdepth 2 -path "$CACHE/venv-*/.used" -mtime +60 -printf '%h\0' | xargs -0r rm -rf --
}

# $RUN/venv: this run's venv, with the package of the checkout copied to $1 installed on top of $VENV. A venv of its
# own, because another run may be testing another state of the checkout.
install_checkout() {
    local log=$RUN/install.log
    "$PYTHON" -I -m venv --without-pip "$RUN/venv"
    (cd "$VENV" && echo "$PWD"/lib/python3*/site-packages) >"$(echo "$RUN"/venv/lib/python3*/site-packages)/dependencies.pth"
    if ! "$VENV/bin/python" -I -m pip --python "$RUN/venv/bin/python" install --no-deps --no-build-isolation \
        --no-index --no-cache-dir "$1" >"$log" 2>&1 </dev/null; then
        tail_of "$log"
        die "cannot install the checkout's package"
    fi
    # pip sets the modes of data files as the wheel has them; a helper without x could not be run by sshd.
    if [[ -d $RUN/venv/libexec/hatchway ]]; then chmod -R a+rX,u+w,go-w "$RUN/venv/libexec"; chmod 0755 "$RUN"/venv/libexec/hatchway/*; fi
    rm -rf -- "$1/build"
}

# The pids of $1 and all that descend from it, oldest ancestor first.
family() {
    local -a todo=("$1")
    local pid
    while ((${#todo[@]})); do
        pid=${todo[0]}
        todo=("${todo[@]:1}")
        [[ -d /proc/$pid ]] || continue
        echo "$pid"
        mapfile -t -O "${#todo[@]}" todo < <(cat "/proc/$pid"/task/*/children 2>/dev/null | tr ' ' '\n' | grep .)
    done
}

# Print the path of a tar of a bare root of the Debian release $1. debootstrap makes it, once a week; HATCHWAY_ROOT_TAR
# names one to use instead.
root_tar() {
    [[ -z ${HATCHWAY_ROOT_TAR-} ]] || {
        [[ -r $HATCHWAY_ROOT_TAR ]] || die "there is no $HATCHWAY_ROOT_TAR"
        echo "$HATCHWAY_ROOT_TAR"
        return
    }
    local tar=$CACHE/root-$1.tar new
    ensure_packages debootstrap >&2
    ensure_cache
    exec 7>"$tar.lock"
    flock 7
    if [[ -z $(find "$tar" -mtime -7 2>/dev/null) ]]; then
        note "making a bare $1 root" >&2
        new=$(mktemp -d "/var/tmp/hatchway-debootstrap.XXXXXX")
        if debootstrap --variant=minbase "$1" "$new" >"$tar.log" 2>&1 7>&- &&
            rm -rf "$new"/var/cache/apt/archives/*.deb && tar -C "$new" -cf "$tar.new" .; then
            mv "$tar.new" "$tar"
        else
            tail_of "$tar.log"
            rm -rf --one-file-system -- "$new" "$tar.new"
            die "debootstrap could not make a $1 root"
        fi
        rm -rf --one-file-system -- "$new"
    fi
    exec 7>&-
    echo "$tar"
}

# Unpack the tar $1 of a root into the directory $2, with the machine's names of hosts and name servers.
unpack_root() {
    local top
    tar -C "$2" --numeric-owner -xpf "$1"
    # A tar may hold the root in a directory of its own.
    if [[ ! -d $2/etc ]]; then
        top=("$2"/*)
        [[ ${#top[@]} -eq 1 && -d ${top[0]}/etc ]] || die "$1 holds no root file system"
        mv "${top[0]}"/* "$2" && rmdir "${top[0]}"
    fi
    # mktemp's 0700 would keep everybody but root from everything in it.
    chmod 0755 "$2"
    rm -f "$2/etc/resolv.conf"
    cp -L /etc/resolv.conf "$2/etc/resolv.conf"
    cp -L /etc/hosts "$2/etc/hosts"
}
