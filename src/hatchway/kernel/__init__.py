"""The raw Linux calls CPython does not wrap: mounts, files, privileges, seccomp.

The only package that uses ctypes. It decides nothing: each function is one system call, or a sequence that makes
sense only as a whole, with errno turned into OSError. Linux 5.14 or newer; nothing weaker is ever used instead.
"""
