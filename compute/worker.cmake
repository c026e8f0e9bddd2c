# endgame-worker: freestanding and static, linked where no program is; the daemon starts it without any file system.
add_executable(endgame-worker worker.c twin.c sleep.c pieces.c worker.S ${CMAKE_SOURCE_DIR}/proto/eg_sys.c ${CMAKE_SOURCE_DIR}/proto/eg_frame.c)
target_include_directories(endgame-worker PRIVATE ${CMAKE_SOURCE_DIR})
target_compile_options(endgame-worker PRIVATE
  -ffreestanding -fno-builtin -fno-stack-protector -U_FORTIFY_SOURCE -fvisibility=hidden -fno-asynchronous-unwind-tables -fPIE
  $<$<COMPILE_LANGUAGE:C>:-mgeneral-regs-only> $<$<C_COMPILER_ID:GNU>:-fno-tree-loop-distribute-patterns>)
# EG_WORKER_START of proto/eg_threads.h.
target_link_options(endgame-worker PRIVATE -nostdlib -static -no-pie -Wl,-Ttext-segment=0x100000000000 -Wl,-z,noexecstack
  -Wl,--build-id=none -Wl,--no-relax)
install(TARGETS endgame-worker RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
