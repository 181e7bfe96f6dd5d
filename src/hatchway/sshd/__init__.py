"""The dedicated sshd: its policy, its files, its host keys. Starting and watching the process is the supervisor's."""
