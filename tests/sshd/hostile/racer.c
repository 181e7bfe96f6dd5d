/* What a hostile container does to its volume: names that are a directory now are a symlink, a FIFO or a device next.

   racer DIRECTORY SLOTS POOL BLOCK-DEVICE(major:minor) SEED TARGET...

   DIRECTORY gets the names s000, s001, ... Each is swapped with something from a pool as fast as renameat2(2) can, and
   so are names one and two directories below. What is in the pool is made anew all the time, since the session removes
   and changes what it meets. A TARGET is what a symlink leads to: "d" or "f" (directory or file), then its path. Ends at
   SIGTERM and prints what it did, one "WORD NUMBER" a line. A static program, for an image that has nothing.

   Nothing here follows a symlink: the targets mean something on the host only. */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

enum kind { PLAIN, EMPTY, LINKS, SPECIALS, FILE_, LINK_DIR, LINK_FILE, PIPE, CHAR, BLOCK, SOCKET, KINDS };
static const char *const words[KINDS] = {"directory", "empty-directory", "directory-of-links", "directory-of-specials", "file",
    "symlink-to-directory", "symlink-to-file", "fifo", "character-device", "block-device", "socket"};
/* Kinds that decide most are made more often. */
static const enum kind turns[] = {PLAIN, LINK_DIR, FILE_, LINK_FILE, LINKS, PIPE, PLAIN, CHAR, EMPTY, LINK_DIR,
    BLOCK, SPECIALS, FILE_, EMPTY, SOCKET, LINK_FILE};
#define TURNS (sizeof turns / sizeof turns[0])

/* Names that flicker between two things for a while, some hundred thousand times a second: for what happens between two
   system calls. */
static const enum kind pairs[][2] = {{FILE_, LINK_FILE}, {PLAIN, LINK_DIR}};
#define PAIRS (sizeof pairs / sizeof pairs[0])

static volatile sig_atomic_t ended;
static uint64_t flickers, state, swaps, inner, moved, failed, woken, made[KINDS];
static const char *directories[64], *files[64];
static int n_directories, n_files;
static dev_t block;

static void end(int signal) { (void)signal; ended = 1; }

static uint32_t below(uint32_t n)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17; /* xorshift64 */
    return (uint32_t)(state >> 32) % n;
}

static void clear(int at, const char *name, int depth)
{
    struct stat st;
    if (fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return;
    if (!S_ISDIR(st.st_mode)) {
        /* Whoever has a FIFO open for reading opened what he must not. */
        if (S_ISFIFO(st.st_mode)) {
            int fd = openat(at, name, O_WRONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
            if (fd >= 0) {
                woken++;
                close(fd);
            }
        }
        unlinkat(at, name, 0);
        return;
    }
    if (depth < 64) {
        int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        DIR *entries = fd < 0 ? NULL : fdopendir(fd);
        if (entries != NULL) {
            for (struct dirent *entry; (entry = readdir(entries)) != NULL;)
                if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
                    clear(fd, entry->d_name, depth + 1);
            closedir(entries);
        }
    }
    unlinkat(at, name, AT_REMOVEDIR);
}

static void file(int at, const char *name)
{
    int fd = openat(at, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0)
        return;
    (void)!write(fd, "the container's own\n", 20);
    close(fd);
}

static void listening(int at, const char *name)
{
    /* bind(2) takes a path only: make it here, then move it there. */
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "/racer.sock"};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char here[64];
    snprintf(here, sizeof here, "/proc/self/fd/%d/%s", at, name);
    strncpy(address.sun_path, here, sizeof address.sun_path - 1);
    (void)!bind(fd, (struct sockaddr *)&address, sizeof address);
    close(fd);
}

static void make(int at, const char *name, enum kind kind)
{
    const char *to_directory = directories[below(n_directories)], *to_file = files[below(n_files)];
    int fd;
    made[kind]++;
    switch (kind) {
    case FILE_: file(at, name); return;
    case LINK_DIR: (void)!symlinkat(to_directory, at, name); return;
    case LINK_FILE: (void)!symlinkat(to_file, at, name); return;
    case PIPE: mknodat(at, name, S_IFIFO | 0666, 0); return;
    case CHAR: mknodat(at, name, S_IFCHR | 0666, makedev(1, below(2) ? 3 : 5)); return; /* null, zero */
    case BLOCK: mknodat(at, name, S_IFBLK | 0666, block); return;
    case SOCKET: listening(at, name); return;
    default: break;
    }
    mkdirat(at, name, 0777);
    if (kind == EMPTY)
        return;
    if ((fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) < 0)
        return;
    if (kind == LINKS) {
        (void)!symlinkat(to_file, fd, "leaf");
        (void)!symlinkat(to_directory, fd, "sub");
    } else if (kind == SPECIALS) {
        make(fd, "leaf", below(2) ? PIPE : BLOCK);
        make(fd, "sub", below(2) ? PIPE : CHAR);
    } else {
        int sub;
        file(fd, "leaf");
        mkdirat(fd, "sub", 0777);
        if ((sub = openat(fd, "sub", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) >= 0) {
            file(sub, "leaf");
            close(sub);
        }
    }
    close(fd);
}

static void flicker(int root, int aside, unsigned pair)
{
    char slot[16], spare[16];
    snprintf(slot, sizeof slot, "s%03u", pair);
    snprintf(spare, sizeof spare, "q%03u", pair);
    clear(root, slot, 0);
    clear(aside, spare, 0);
    make(root, slot, pairs[pair][0]);
    make(aside, spare, pairs[pair][1]);
    for (int i = 0; i < 10000 && !ended; i++)
        if (renameat2(root, slot, aside, spare, RENAME_EXCHANGE) == 0)
            flickers++;
        else
            break; /* the session has removed it */
}

int main(int argc, char **argv)
{
    if (argc < 8)
        return 2;
    int slots = atoi(argv[2]), pool = atoi(argv[3]), turn = 0;
    unsigned major_, minor_;
    if (sscanf(argv[4], "%u:%u", &major_, &minor_) != 2)
        return 2;
    block = makedev(major_, minor_);
    state = strtoull(argv[5], NULL, 10) * 2654435761u + 88172645463325252ull;
    for (int i = 6; i < argc; i++) {
        if (argv[i][0] == 'd' && n_directories < 64)
            directories[n_directories++] = argv[i] + 1;
        else if (argv[i][0] == 'f' && n_files < 64)
            files[n_files++] = argv[i] + 1;
    }
    if (n_directories == 0 || n_files == 0)
        return 2;
    signal(SIGTERM, end);
    umask(0);
    if (chmod(argv[1], 0777) != 0)
        return 3;
    int root = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    mkdirat(root, ".pool", 0700);
    int aside = openat(root, ".pool", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0 || aside < 0)
        return 3;
    /* The kinds this image's kernel or engine does not let us make would be missing without anybody's noticing. */
    for (int kind = 0; kind < KINDS; kind++) {
        struct stat st;
        make(aside, "try", kind);
        if (fstatat(aside, "try", &st, AT_SYMLINK_NOFOLLOW) != 0) {
            printf("cannot-make-%s %d\n", words[kind], errno);
            return 4;
        }
        clear(aside, "try", 0);
    }
    char slot[64], spare[16];
    for (int i = 0; i < slots; i++) {
        snprintf(slot, sizeof slot, "s%03d", i);
        clear(root, slot, 0);
        make(root, slot, turns[turn++ % TURNS]);
    }
    for (int i = 0; i < pool; i++) {
        snprintf(spare, sizeof spare, "p%03d", i);
        clear(aside, spare, 0);
        make(aside, spare, turns[turn++ % TURNS]);
    }
    printf("ready 1\n");
    fflush(stdout);
    for (uint64_t i = 0; !ended; i++) {
        static const char *const where[] = {"", "", "", "", "/leaf", "/leaf", "/sub", "/sub/leaf"};
        const char *rest = where[below(8)];
        /* Half of all swaps are of a few names only, which are then never long the same. */
        snprintf(slot, sizeof slot, "s%03d%s", below(2) ? below(slots < 8 ? slots : 8) : below(slots), rest);
        snprintf(spare, sizeof spare, "p%03d", below(pool));
        if (renameat2(root, slot, aside, spare, RENAME_EXCHANGE) == 0) {
            swaps++;
            inner += *rest != 0;
        } else if (errno == ENOENT && renameat2(aside, spare, root, slot, RENAME_NOREPLACE) == 0) {
            moved++;
        } else {
            failed++;
        }
        if (i % 8 == 0) {
            snprintf(spare, sizeof spare, "p%03d", below(pool));
            clear(aside, spare, 0);
            make(aside, spare, turns[turn++ % TURNS]);
        }
        if (i % 2048 == 0)
            flicker(root, aside, i / 2048 % PAIRS);
        if (i % 1024 == 0) { /* a name of the session's own choice is gone some time, too */
            snprintf(slot, sizeof slot, "s%03d", below(slots));
            clear(root, slot, 0);
        }
    }
    printf("flickers %lu\nswaps %lu\ninner-swaps %lu\nmoves %lu\nmisses %lu\nwoken-fifos %lu\n", flickers, swaps, inner, moved, failed, woken);
    for (int kind = 0; kind < KINDS; kind++)
        printf("%s %lu\n", words[kind], made[kind]);
    return 0;
}
