"""Which family of constants explains which argument, for reading audit logs. Parsed by `sandbox.abi.constants` alone.

One line per syscall: ``argument=how``. `how` is
- ``family``: flags, or-ed from that family (several families: ``a|b``);
- ``=family,family``: one value, the first family that has it;
- ``family&mask``: one value in those bits; the rest of the bits goes to the other parts, rendered in the order written;
- ``octal`` (also as the last part of the former), ``dirfd`` (a descriptor or AT_FDCWD), ``hex``.
`*` lines hold for every syscall that has an argument of that name and no line of its own for it.
"""

MEANINGS = """\
* dfd=dirfd olddfd=dirfd newdfd=dirfd from_dfd=dirfd to_dfd=dirfd sig==signal clockid==clock resource==rlimit prot=prot mode=octal
accept4 flags=sock_flag
access mode=access
arch_prctl option==arch_prctl
bpf cmd==bpf
clock_nanosleep flags=timer_flag
clone flags=clone|signal&0xff
close_range flags=close_range
delete_module flags=open
dup3 flags=open
epoll_create1 flags=epoll_create
epoll_ctl op==epoll_ctl
eventfd2 flags=eventfd
execveat fd=dirfd flags=at
faccessat mode=access
faccessat2 mode=access flags=at_access|at
fadvise64 advice==fadvise
fallocate mode=falloc
fanotify_init flags=fanotify_init event_f_flags=open_access&3|open
fanotify_mark flags=fanotify_mark mask=fanotify_mask
fchmodat2 flags=at
fchownat flags=at
fcntl cmd==fcntl
file_getattr flags=at
file_setattr flags=at
finit_module flags=module_init
flock cmd=lock
fsconfig cmd==fsconfig
fsetxattr flags=xattr
fsmount flags=fsmount attr_flags=mount_attr
fsopen flags=fsopen
fspick flags=fspick
futex op=futex&0x7f|futex_flag
futex_requeue flags=futex2
futex_wait flags=futex2
futex_waitv flags=futex2
futex_wake flags=futex2
getitimer which==itimer
getpriority which==prio
getrandom flags=getrandom
getrusage who==rusage
getsockopt level==sol optname=hex
getxattrat flags=at
inotify_add_watch mask=inotify
inotify_init1 flags=inotify_init
io_uring_enter flags=io_uring_enter
io_uring_register opcode==io_uring_register
ioctl cmd==tty,fs_ioctl,socket_ioctl,ns_ioctl,pidfd_ioctl,uffd_ioctl,perf_ioctl,seccomp_ioctl,clock_ioctl,loop_ioctl,tun_ioctl,console_ioctl,random_ioctl
ioprio_get which==ioprio
ioprio_set which==ioprio
kcmp type==kcmp
kexec_file_load flags=kexec_file
kexec_load flags=kexec
keyctl option==keyctl
landlock_add_rule rule_type==landlock_rule flags=landlock_add
landlock_create_ruleset flags=landlock_create
landlock_restrict_self flags=landlock_restrict
linkat flags=at
listxattrat flags=at
lseek whence==seek
lsetxattr flags=xattr
lsm_get_self_attr attr==lsm_attr
lsm_set_self_attr attr==lsm_attr
madvise advice==madvise
map_shadow_stack flags=shadow_stack
mbind mode=mempolicy&0x1fff|mempolicy_flag flags=mempolicy_move
membarrier cmd==membarrier flags=membarrier_flag
memfd_create flags=memfd
memfd_secret flags=open
mknod mode=file_type&0xf000|octal
mknodat mode=file_type&0xf000|octal
mlock2 flags=mlock
mlockall flags=mlockall
mmap flags=map_type&0xf|map
mount flags=mount
mount_setattr flags=at
move_mount flags=move_mount
move_pages flags=mempolicy_move
mq_open flags=open_access&3|open
mremap flags=mremap
msgctl cmd==ipc_ctl,msg_ctl
msgget key==ipc_key msgflg=ipc_get
msgrcv msgflg=ipc_get|msg_flag
msgsnd msgflg=ipc_get
msync flags=msync
name_to_handle_at flags=at_handle|at
newfstatat flags=at
open flags=open_access&3|open
open_by_handle_at mountdirfd=dirfd flags=open_access&3|open
open_tree flags=open_tree|at
open_tree_attr flags=open_tree|at
openat flags=open_access&3|open
perf_event_open flags=perf
personality personality=persona&0xff|persona_flag
pidfd_open flags=pidfd
pidfd_send_signal flags=pidfd_signal
pipe2 flags=open
pkey_alloc init_val=pkey
prctl option==pr
preadv2 flags=rwf
process_madvise advice==madvise
ptrace request==ptrace
pwritev2 flags=rwf
quotactl cmd=hex
quotactl_fd cmd=hex
reboot magic1==reboot_magic magic2==reboot_magic cmd==reboot
recvfrom flags=msg
recvmmsg flags=msg
recvmsg flags=msg
removexattrat flags=at
renameat2 flags=rename
rseq flags=rseq sig=hex
rt_sigprocmask how==sig_how
sched_get_priority_max policy==sched
sched_get_priority_min policy==sched
sched_setscheduler policy=sched&0xffff|sched
seccomp op==seccomp flags=seccomp_flag
semctl cmd==sem_ctl,ipc_ctl
semget key==ipc_key semflg=ipc_get
sendmmsg flags=msg
sendmsg flags=msg
sendto flags=msg
set_mempolicy mode=mempolicy&0x1fff|mempolicy_flag
setitimer which==itimer
setns flags=clone
setpriority which==prio
setsockopt level==sol optname=hex
setxattr flags=xattr
setxattrat flags=at
shmat shmflg=shm_at
shmctl cmd==ipc_ctl,shm_ctl
shmget key==ipc_key shmflg=ipc_get|shm_get
shutdown how==shut
signalfd4 flags=signalfd
socket family==af type=sock&0xf|sock_flag
socketpair family==af type=sock&0xf|sock_flag
splice flags=splice
statx flags=at|at_statx mask=statx
swapon flags=swap
sync_file_range flags=sync_range
tee flags=splice
timer_settime flags=timer_flag
timerfd_create flags=timerfd
timerfd_settime flags=timerfd
umount2 flags=umount
unlinkat flags=at_unlink|at
unshare flags=clone
userfaultfd flags=open|uffd
utimensat flags=at
vmsplice flags=splice
wait4 options=wait
waitid which==wait_which options=wait
"""
