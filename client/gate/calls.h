/* calls.h - what the kernel accesses of the program's memory in each system call of x86-64 Linux up to 6.18. Freestanding: data only.
 *
 * EG_CALLS(X): X(number, name, flags, entries): the calls that take user pointers, in order. EG_CALLS_PLAIN(X): X(number, name): those that take none, or only
 * addresses that are not accessed. A number in neither list is a newer kernel's: every argument that points into captured memory is taken for a page,
 * read and written.
 *
 * An entry says what one argument (0 to 5) points to. Who uses the table defines these before:
 *   R(a, bytes)   the kernel reads a structure of that size. It may be smaller in truth: what is looked at too much costs nothing. W writes, RW both.
 *   RN(a, n, each)  argument n times `each` bytes; WN, RWN. RI, WI, RWI: argument n is an int, the upper half of its register says nothing.
 *   RB(a, n)      a mask of argument n (an int) bits, in words of 8 bytes; WB, RWB.
 *   STR(a)        a NUL-terminated string, of a page at most.
 *   LENP(a, l)    argument l points to an int, which is how long the buffer is (value-result).
 *   IOVR(a, n)    n iovecs and what they point to, which is read; IOVW is written.
 *   MSGR(a)       a msghdr, with name, iovecs and control message, for sending; MSGW for receiving. MMSGR(a, n), MMSGW(a, n): n mmsghdrs.
 *   ARGV(a)       pointers to strings, the last one NULL.
 *   SIG6(a)       pointer and length of a signal set (pselect6).
 *   ANY           the call is a bundle: buffers.c knows.
 * Flags: EG_CALL_LARGE: a longer buffer may be served in pieces. EG_CALL_LASTING: the kernel uses it until the thread ends. EG_CALL_DECLINED: the
 * kernel would access memory outside of calls: the answer is -ENOSYS. */
#ifndef EG_CALLS_H
#define EG_CALLS_H

#define EG_CALL_LARGE 1
#define EG_CALL_LASTING 2
#define EG_CALL_DECLINED 4
#define EG_CALL_ENTRIES 6

/* clang-format off */
#define EG_CALLS(X) \
    X(0, read, EG_CALL_LARGE, WN(1, 2, 1)) \
    X(1, write, EG_CALL_LARGE, RN(1, 2, 1)) \
    X(2, open, 0, STR(0)) \
    X(4, stat, 0, STR(0), W(1, 144)) \
    X(5, fstat, 0, W(1, 144)) \
    X(6, lstat, 0, STR(0), W(1, 144)) \
    X(7, poll, 0, RWI(0, 1, 8)) \
    X(13, rt_sigaction, 0, R(1, 32), W(2, 32)) \
    X(14, rt_sigprocmask, 0, R(1, 8), W(2, 8)) \
    X(16, ioctl, 0, ANY) /* size from the request, or 256; pointers in it: a page each, or as buffers.c knows */ \
    X(17, pread64, EG_CALL_LARGE, WN(1, 2, 1)) \
    X(18, pwrite64, EG_CALL_LARGE, RN(1, 2, 1)) \
    X(19, readv, EG_CALL_LARGE, IOVW(1, 2)) \
    X(20, writev, EG_CALL_LARGE, IOVR(1, 2)) \
    X(21, access, 0, STR(0)) \
    X(22, pipe, 0, W(0, 8)) \
    X(23, select, 0, RWB(1, 0), RWB(2, 0), RWB(3, 0), RW(4, 16)) \
    X(27, mincore, 0, ANY) /* the vector, not the memory it is about */ \
    X(31, shmctl, 0, RW(2, 112)) \
    X(35, nanosleep, 0, R(0, 16), W(1, 16)) \
    X(36, getitimer, 0, W(1, 32)) \
    X(38, setitimer, 0, R(1, 32), W(2, 32)) \
    X(40, sendfile, 0, RW(2, 8)) \
    X(42, connect, 0, RI(1, 2, 1)) \
    X(43, accept, 0, LENP(1, 2)) \
    X(44, sendto, EG_CALL_LARGE, RN(1, 2, 1), RI(4, 5, 1)) \
    X(45, recvfrom, EG_CALL_LARGE, WN(1, 2, 1), LENP(4, 5)) \
    X(46, sendmsg, 0, MSGR(1)) \
    X(47, recvmsg, 0, MSGW(1)) \
    X(49, bind, 0, RI(1, 2, 1)) \
    X(51, getsockname, 0, LENP(1, 2)) \
    X(52, getpeername, 0, LENP(1, 2)) \
    X(53, socketpair, 0, W(3, 8)) \
    X(54, setsockopt, 0, RI(3, 4, 1), ANY) /* short ones may hold pointers: a filter program */ \
    X(55, getsockopt, 0, LENP(3, 4)) \
    X(56, clone, 0, W(2, 4), W(3, 4)) \
    X(59, execve, 0, STR(0), ARGV(1), ARGV(2)) \
    X(61, wait4, 0, W(1, 4), W(3, 144)) \
    X(63, uname, 0, W(0, 390)) \
    X(65, semop, 0, RI(1, 2, 6)) \
    X(66, semctl, 0, ANY) \
    X(69, msgsnd, 0, ANY) /* a long before the text */ \
    X(70, msgrcv, 0, ANY) \
    X(71, msgctl, 0, RW(2, 120)) \
    X(72, fcntl, 0, ANY) /* locks, owners, hints */ \
    X(76, truncate, 0, STR(0)) \
    X(78, getdents, 0, WI(1, 2, 1)) \
    X(79, getcwd, 0, WN(0, 1, 1)) \
    X(80, chdir, 0, STR(0)) \
    X(82, rename, 0, STR(0), STR(1)) \
    X(83, mkdir, 0, STR(0)) \
    X(84, rmdir, 0, STR(0)) \
    X(85, creat, 0, STR(0)) \
    X(86, link, 0, STR(0), STR(1)) \
    X(87, unlink, 0, STR(0)) \
    X(88, symlink, 0, STR(0), STR(1)) \
    X(89, readlink, 0, STR(0), WI(1, 2, 1)) \
    X(90, chmod, 0, STR(0)) \
    X(92, chown, 0, STR(0)) \
    X(94, lchown, 0, STR(0)) \
    X(96, gettimeofday, 0, W(0, 16), W(1, 8)) \
    X(97, getrlimit, 0, W(1, 16)) \
    X(98, getrusage, 0, W(1, 144)) \
    X(99, sysinfo, 0, W(0, 112)) \
    X(100, times, 0, W(0, 32)) \
    X(101, ptrace, 0, ANY) /* data: a page, with pointers in it (a register set's iovec) */ \
    X(103, syslog, 0, WI(1, 2, 1)) \
    X(115, getgroups, 0, WI(1, 0, 4)) \
    X(116, setgroups, 0, RI(1, 0, 4)) \
    X(118, getresuid, 0, W(0, 4), W(1, 4), W(2, 4)) \
    X(120, getresgid, 0, W(0, 4), W(1, 4), W(2, 4)) \
    X(125, capget, 0, RW(0, 8), W(1, 24)) \
    X(126, capset, 0, RW(0, 8), R(1, 24)) \
    X(127, rt_sigpending, 0, W(0, 8)) \
    X(128, rt_sigtimedwait, 0, R(0, 8), W(1, 128), R(2, 16)) \
    X(129, rt_sigqueueinfo, 0, R(2, 128)) \
    X(130, rt_sigsuspend, 0, R(0, 8)) \
    X(131, sigaltstack, 0, R(0, 24), W(1, 24)) \
    X(132, utime, 0, STR(0), R(1, 16)) \
    X(133, mknod, 0, STR(0)) \
    X(134, uselib, 0, STR(0)) \
    X(136, ustat, 0, W(1, 32)) \
    X(137, statfs, 0, STR(0), W(1, 120)) \
    X(138, fstatfs, 0, W(1, 120)) \
    X(139, sysfs, 0, STR(1), W(2, 256)) \
    X(142, sched_setparam, 0, R(1, 4)) \
    X(143, sched_getparam, 0, W(1, 4)) \
    X(144, sched_setscheduler, 0, R(2, 4)) \
    X(148, sched_rr_get_interval, 0, W(1, 16)) \
    X(149, mlock, EG_CALL_LARGE, ANY) /* the kernel faults all of it in */ \
    X(154, modify_ldt, 0, RWN(1, 2, 1)) \
    X(155, pivot_root, 0, STR(0), STR(1)) \
    X(157, prctl, 0, ANY) /* by option */ \
    X(158, arch_prctl, 0, W(1, 8)) \
    X(159, adjtimex, 0, RW(0, 208)) \
    X(160, setrlimit, 0, R(1, 16)) \
    X(161, chroot, 0, STR(0)) \
    X(163, acct, 0, STR(0)) \
    X(164, settimeofday, 0, R(0, 16), R(1, 8)) \
    X(165, mount, 0, STR(0), STR(1), STR(2), R(4, 4096)) \
    X(166, umount2, 0, STR(0)) \
    X(167, swapon, 0, STR(0)) \
    X(168, swapoff, 0, STR(0)) \
    X(169, reboot, 0, STR(3)) \
    X(170, sethostname, 0, RI(0, 1, 1)) \
    X(171, setdomainname, 0, RI(0, 1, 1)) \
    X(175, init_module, 0, RN(0, 1, 1), STR(2)) \
    X(176, delete_module, 0, STR(0)) \
    X(179, quotactl, 0, STR(1), RW(3, 256)) \
    X(188, setxattr, 0, STR(0), STR(1), RN(2, 3, 1)) \
    X(189, lsetxattr, 0, STR(0), STR(1), RN(2, 3, 1)) \
    X(190, fsetxattr, 0, STR(1), RN(2, 3, 1)) \
    X(191, getxattr, 0, STR(0), STR(1), WN(2, 3, 1)) \
    X(192, lgetxattr, 0, STR(0), STR(1), WN(2, 3, 1)) \
    X(193, fgetxattr, 0, STR(1), WN(2, 3, 1)) \
    X(194, listxattr, 0, STR(0), WN(1, 2, 1)) \
    X(195, llistxattr, 0, STR(0), WN(1, 2, 1)) \
    X(196, flistxattr, 0, WN(1, 2, 1)) \
    X(197, removexattr, 0, STR(0), STR(1)) \
    X(198, lremovexattr, 0, STR(0), STR(1)) \
    X(199, fremovexattr, 0, STR(1)) \
    X(201, time, 0, W(0, 8)) \
    X(202, futex, 0, ANY) /* by operation: the word, the second word, the timeout */ \
    X(203, sched_setaffinity, 0, RI(2, 1, 1)) \
    X(204, sched_getaffinity, 0, WI(2, 1, 1)) \
    X(206, io_setup, 0, RW(1, 8)) \
    X(208, io_getevents, 0, WN(3, 2, 32), R(4, 16)) \
    X(209, io_submit, 0, ANY) /* pointers to requests, which have pointers to buffers */ \
    X(210, io_cancel, 0, RW(1, 64), W(2, 32)) \
    X(212, lookup_dcookie, 0, WN(1, 2, 1)) \
    X(217, getdents64, 0, WI(1, 2, 1)) \
    X(218, set_tid_address, EG_CALL_LASTING, W(0, 4)) \
    X(220, semtimedop, 0, RI(1, 2, 6), R(3, 16)) \
    X(222, timer_create, 0, R(1, 64), RW(2, 4)) \
    X(223, timer_settime, 0, R(2, 32), W(3, 32)) \
    X(224, timer_gettime, 0, W(1, 32)) \
    X(227, clock_settime, 0, R(1, 16)) \
    X(228, clock_gettime, 0, W(1, 16)) \
    X(229, clock_getres, 0, W(1, 16)) \
    X(230, clock_nanosleep, 0, R(2, 16), W(3, 16)) \
    X(232, epoll_wait, 0, WI(1, 2, 12)) \
    X(233, epoll_ctl, 0, R(3, 12)) \
    X(235, utimes, 0, STR(0), R(1, 32)) \
    X(237, mbind, 0, RB(3, 4)) \
    X(238, set_mempolicy, 0, RB(1, 2)) \
    X(239, get_mempolicy, 0, W(0, 4), WB(1, 2)) \
    X(240, mq_open, 0, STR(0), R(3, 64)) \
    X(241, mq_unlink, 0, STR(0)) \
    X(242, mq_timedsend, 0, RN(1, 2, 1), R(4, 16)) \
    X(243, mq_timedreceive, 0, WN(1, 2, 1), W(3, 4), R(4, 16)) \
    X(244, mq_notify, 0, R(1, 64), ANY) /* the value may point to a cookie */ \
    X(245, mq_getsetattr, 0, R(1, 64), W(2, 64)) \
    X(246, kexec_load, 0, ANY) \
    X(247, waitid, 0, W(2, 128), W(4, 144)) \
    X(248, add_key, 0, STR(0), STR(1), RN(2, 3, 1)) \
    X(249, request_key, 0, STR(0), STR(1), STR(2)) \
    X(250, keyctl, 0, ANY) \
    X(254, inotify_add_watch, 0, STR(1)) \
    X(256, migrate_pages, 0, RB(2, 1), RB(3, 1)) \
    X(257, openat, 0, STR(1)) \
    X(258, mkdirat, 0, STR(1)) \
    X(259, mknodat, 0, STR(1)) \
    X(260, fchownat, 0, STR(1)) \
    X(261, futimesat, 0, STR(1), R(2, 32)) \
    X(262, newfstatat, 0, STR(1), W(2, 144)) \
    X(263, unlinkat, 0, STR(1)) \
    X(264, renameat, 0, STR(1), STR(3)) \
    X(265, linkat, 0, STR(1), STR(3)) \
    X(266, symlinkat, 0, STR(0), STR(2)) \
    X(267, readlinkat, 0, STR(1), WI(2, 3, 1)) \
    X(268, fchmodat, 0, STR(1)) \
    X(269, faccessat, 0, STR(1)) \
    X(270, pselect6, 0, RWB(1, 0), RWB(2, 0), RWB(3, 0), RW(4, 16), SIG6(5)) \
    X(271, ppoll, 0, RWI(0, 1, 8), RW(2, 16), R(3, 8)) \
    X(273, set_robust_list, EG_CALL_LASTING, R(0, 24)) \
    X(274, get_robust_list, 0, W(1, 8), W(2, 8)) \
    X(275, splice, 0, RW(1, 8), RW(3, 8)) \
    X(278, vmsplice, 0, IOVW(1, 2)) /* which way depends on the end of the pipe */ \
    X(279, move_pages, 0, RN(2, 1, 8), RN(3, 1, 4), WN(4, 1, 4)) \
    X(280, utimensat, 0, STR(1), R(2, 32)) \
    X(281, epoll_pwait, 0, WI(1, 2, 12), R(4, 8)) \
    X(282, signalfd, 0, R(1, 8)) \
    X(286, timerfd_settime, 0, R(2, 32), W(3, 32)) \
    X(287, timerfd_gettime, 0, W(1, 32)) \
    X(288, accept4, 0, LENP(1, 2)) \
    X(289, signalfd4, 0, R(1, 8)) \
    X(293, pipe2, 0, W(0, 8)) \
    X(295, preadv, EG_CALL_LARGE, IOVW(1, 2)) \
    X(296, pwritev, EG_CALL_LARGE, IOVR(1, 2)) \
    X(297, rt_tgsigqueueinfo, 0, R(3, 128)) \
    X(298, perf_event_open, 0, RW(0, 256)) \
    X(299, recvmmsg, 0, MMSGW(1, 2), RW(4, 16)) \
    X(301, fanotify_mark, 0, STR(4)) \
    X(302, prlimit64, 0, R(2, 16), W(3, 16)) \
    X(303, name_to_handle_at, 0, STR(1), RW(2, 136), W(3, 8)) \
    X(304, open_by_handle_at, 0, R(1, 136)) \
    X(305, clock_adjtime, 0, RW(1, 208)) \
    X(307, sendmmsg, 0, MMSGR(1, 2)) \
    X(309, getcpu, 0, W(0, 4), W(1, 4)) \
    X(310, process_vm_readv, 0, IOVW(1, 2), ANY) /* the other side may be this process itself */ \
    X(311, process_vm_writev, 0, IOVR(1, 2), ANY) \
    X(312, kcmp, 0, R(4, 16)) \
    X(313, finit_module, 0, STR(1)) \
    X(314, sched_setattr, 0, RW(1, 256)) \
    X(315, sched_getattr, 0, WI(1, 2, 1)) \
    X(316, renameat2, 0, STR(1), STR(3)) \
    X(317, seccomp, 0, ANY) \
    X(318, getrandom, EG_CALL_LARGE, WN(0, 1, 1)) \
    X(319, memfd_create, 0, STR(0)) \
    X(320, kexec_file_load, 0, RN(3, 2, 1)) \
    X(321, bpf, 0, RWI(1, 2, 1), ANY) \
    X(322, execveat, 0, STR(1), ARGV(2), ARGV(3)) \
    X(325, mlock2, EG_CALL_LARGE, ANY) \
    X(326, copy_file_range, 0, RW(1, 8), RW(3, 8)) \
    X(327, preadv2, EG_CALL_LARGE, IOVW(1, 2)) \
    X(328, pwritev2, EG_CALL_LARGE, IOVR(1, 2)) \
    X(332, statx, 0, STR(1), W(4, 256)) \
    X(333, io_pgetevents, 0, WN(3, 2, 32), R(4, 16), SIG6(5)) \
    X(334, rseq, EG_CALL_LASTING, RWI(0, 1, 1)) \
    X(424, pidfd_send_signal, 0, R(2, 128)) \
    X(425, io_uring_setup, EG_CALL_DECLINED, RW(1, 120)) \
    X(426, io_uring_enter, 0, RN(4, 5, 1)) \
    X(427, io_uring_register, 0, RW(2, 4096)) \
    X(428, open_tree, 0, STR(1)) \
    X(429, move_mount, 0, STR(1), STR(3)) \
    X(430, fsopen, 0, STR(0)) \
    X(431, fsconfig, 0, STR(2), STR(3), RI(3, 4, 1)) \
    X(433, fspick, 0, STR(1)) \
    X(435, clone3, 0, RWN(0, 1, 1), ANY) \
    X(437, openat2, 0, STR(1), RN(2, 3, 1)) \
    X(439, faccessat2, 0, STR(1)) \
    X(440, process_madvise, 0, RN(1, 2, 16)) \
    X(441, epoll_pwait2, 0, WI(1, 2, 12), R(3, 16), R(4, 8)) \
    X(442, mount_setattr, 0, STR(1), RN(3, 4, 1)) \
    X(443, quotactl_fd, 0, RW(3, 256)) \
    X(444, landlock_create_ruleset, 0, RN(0, 1, 1)) \
    X(445, landlock_add_rule, 0, R(2, 64)) \
    X(449, futex_waitv, 0, RI(0, 1, 24), R(3, 16), ANY) \
    X(451, cachestat, 0, R(1, 16), W(2, 40)) \
    X(452, fchmodat2, 0, STR(1)) \
    X(454, futex_wake, 0, RW(0, 8)) \
    X(455, futex_wait, 0, RW(0, 8), R(4, 16)) \
    X(456, futex_requeue, 0, R(0, 48), ANY) \
    X(457, statmount, 0, R(0, 64), WN(1, 2, 1)) \
    X(458, listmount, 0, R(0, 64), WN(1, 2, 8)) \
    X(459, lsm_get_self_attr, 0, LENP(1, 2)) \
    X(460, lsm_set_self_attr, 0, RI(1, 2, 1)) \
    X(461, lsm_list_modules, 0, LENP(0, 1)) \
    X(463, setxattrat, 0, STR(1), STR(3), RN(4, 5, 1), ANY) \
    X(464, getxattrat, 0, STR(1), STR(3), RWN(4, 5, 1), ANY) \
    X(465, listxattrat, 0, STR(1), WN(3, 4, 1)) \
    X(466, removexattrat, 0, STR(1), STR(3)) \
    X(467, open_tree_attr, 0, STR(1), RN(3, 4, 1)) \
    X(468, file_getattr, 0, STR(1), WN(2, 3, 1)) \
    X(469, file_setattr, 0, STR(1), RN(2, 3, 1))

#define EG_CALLS_PLAIN(X) \
    X(3, close) X(8, lseek) X(9, mmap) X(10, mprotect) X(11, munmap) X(12, brk) X(15, rt_sigreturn) X(24, sched_yield) X(25, mremap) \
    X(26, msync) X(28, madvise) X(29, shmget) X(30, shmat) X(32, dup) X(33, dup2) X(34, pause) X(37, alarm) X(39, getpid) X(41, socket) \
    X(48, shutdown) X(50, listen) X(57, fork) X(58, vfork) X(60, exit) X(62, kill) X(64, semget) X(67, shmdt) X(68, msgget) X(73, flock) \
    X(74, fsync) X(75, fdatasync) X(77, ftruncate) X(81, fchdir) X(91, fchmod) X(93, fchown) X(95, umask) X(102, getuid) X(104, getgid) \
    X(105, setuid) X(106, setgid) X(107, geteuid) X(108, getegid) X(109, setpgid) X(110, getppid) X(111, getpgrp) X(112, setsid) \
    X(113, setreuid) X(114, setregid) X(117, setresuid) X(119, setresgid) X(121, getpgid) X(122, setfsuid) X(123, setfsgid) X(124, getsid) \
    X(135, personality) X(140, getpriority) X(141, setpriority) X(145, sched_getscheduler) X(146, sched_get_priority_max) \
    X(147, sched_get_priority_min) X(150, munlock) X(151, mlockall) X(152, munlockall) X(153, vhangup) X(156, _sysctl) X(162, sync) \
    X(172, iopl) X(173, ioperm) X(174, create_module) X(177, get_kernel_syms) X(178, query_module) X(180, nfsservctl) X(181, getpmsg) \
    X(182, putpmsg) X(183, afs_syscall) X(184, tuxcall) X(185, security) X(186, gettid) X(187, readahead) X(200, tkill) \
    X(205, set_thread_area) X(207, io_destroy) X(211, get_thread_area) X(213, epoll_create) X(214, epoll_ctl_old) X(215, epoll_wait_old) \
    X(216, remap_file_pages) X(219, restart_syscall) X(221, fadvise64) X(225, timer_getoverrun) X(226, timer_delete) X(231, exit_group) \
    X(234, tgkill) X(236, vserver) X(251, ioprio_set) X(252, ioprio_get) X(253, inotify_init) X(255, inotify_rm_watch) X(272, unshare) \
    X(276, tee) X(277, sync_file_range) X(283, timerfd_create) X(284, eventfd) X(285, fallocate) X(290, eventfd2) X(291, epoll_create1) \
    X(292, dup3) X(294, inotify_init1) X(300, fanotify_init) X(306, syncfs) X(308, setns) X(323, userfaultfd) X(324, membarrier) \
    X(329, pkey_mprotect) X(330, pkey_alloc) X(331, pkey_free) X(335, uretprobe) X(336, uprobe) X(432, fsmount) X(434, pidfd_open) \
    X(436, close_range) X(438, pidfd_getfd) X(446, landlock_restrict_self) X(447, memfd_secret) X(448, process_mrelease) \
    X(450, set_mempolicy_home_node) X(453, map_shadow_stack) X(462, mseal)
/* clang-format on */

#endif
