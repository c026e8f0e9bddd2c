# The runtime inside the user's process. eg_core is the freestanding line: no libc, no TLS, no vector registers; the build
# fails when it leaks an undefined symbol.
set(EG_CORE_SOURCES
  ${CMAKE_SOURCE_DIR}/proto/eg_sys.c
  ${CMAKE_SOURCE_DIR}/proto/eg_pb.c
  ${CMAKE_SOURCE_DIR}/proto/eg_transport_shm.c
  ${CMAKE_SOURCE_DIR}/proto/eg_transport_tcp.c
  pager/account.c
  pager/block.c
  pager/advice.c
  pager/capture.c
  pager/eg_range.c
  pager/evict.c
  pager/queue.c
  pager/arm.c
  pager/drop.c
  pager/write.c
  pager/fds.c
  pager/fetch.c
  pager/fork.c
  pager/hints.c
  pager/inline.c
  pager/peer.c
  pager/pins.c
  pager/pager.c
  pager/remap.c
  pager/session.c
  pager/sum.c
  pager/uffd.c
  pager/verbs.c
  pager/whole.c
  ${CMAKE_SOURCE_DIR}/proto/eg_frame.c
  threads/agent.c
  threads/send.c
  threads/near.c
  threads/quiet.c
  threads/summon.c
  threads/grant.c
  threads/halt.c
  threads/spare.c
  threads/ahead.c
  threads/fault.c
  threads/freeze.c
  threads/chunk.c
  threads/dir.c
  threads/far.c
  threads/lost.c
  threads/memory.c
  threads/node.c
  threads/proxy.c
  threads/slot.c
  threads/sleep.c
  threads/begin.c
  threads/call.c
  threads/crash.c
  threads/end.c
  threads/start.c
  threads/threads.S
  threads/view.c
  threads/view_text.c
  gate/gate.c
  gate/gate.S
  gate/aio.c
  gate/buffers.c
  gate/insn.c
  gate/patch.c
  gate/patch_all.c
  gate/window.c
  gate/site.c
  gate/jumps.c
  gate/trampoline.c
  gate/late.c
  gate/sections.c
  gate/texts.c
  gate/peer.c
  gate/large.c
  gate/pin.c
  gate/robust.c
  gate/signals.c
  gate/signal_calls.c
  gate/signal_state.c
  gate/traceme.c
  gate/tracer.c
  gate/signals.S)
add_library(eg_core STATIC ${EG_CORE_SOURCES})
target_include_directories(eg_core PRIVATE ${CMAKE_SOURCE_DIR})
target_compile_options(eg_core PRIVATE
  -ffreestanding -fno-builtin -fno-stack-protector -U_FORTIFY_SOURCE -fvisibility=hidden -mgeneral-regs-only
  -fno-asynchronous-unwind-tables $<$<C_COMPILER_ID:GNU>:-fno-tree-loop-distribute-patterns>)
add_custom_command(TARGET eg_core POST_BUILD
  COMMAND ${CMAKE_SOURCE_DIR}/scripts/check-freestanding $<TARGET_FILE:eg_core> ${CMAKE_LINKER} ${CMAKE_NM}
  VERBATIM)

set(EG_EXPORTS ${CMAKE_CURRENT_SOURCE_DIR}/preload/endgame.map)
add_library(libendgame SHARED preload/init.c)
set_target_properties(libendgame PROPERTIES OUTPUT_NAME endgame LINK_DEPENDS ${EG_EXPORTS})
target_include_directories(libendgame PRIVATE ${CMAKE_SOURCE_DIR})
target_compile_options(libendgame PRIVATE -fvisibility=hidden -fno-stack-protector)
# initfirst: the gate stands before any constructor of the program or its libraries runs.
target_link_options(libendgame PRIVATE -Wl,-z,defs -Wl,-z,now -Wl,-z,relro -Wl,-z,initfirst -Wl,-z,nodelete
  -Wl,--version-script=${EG_EXPORTS})
target_link_libraries(libendgame PRIVATE eg_core)

# The same for linking in: one archive with everything.
add_library(endgame_static STATIC preload/init.c $<TARGET_OBJECTS:eg_core>)
set_target_properties(endgame_static PROPERTIES OUTPUT_NAME endgame)
target_include_directories(endgame_static PRIVATE ${CMAKE_SOURCE_DIR})
target_compile_options(endgame_static PRIVATE -fvisibility=hidden -fno-stack-protector)

# RDMA for the runtime, loaded into a link namespace of its own when a server is reached that way.
set(EG_VERBS_EXPORTS ${CMAKE_CURRENT_SOURCE_DIR}/verbs/endgame-verbs.map)
add_library(libendgame-verbs SHARED verbs/verbs_lib.c verbs/verbs_malloc.c
  ${CMAKE_SOURCE_DIR}/proto/eg_rdma.c ${CMAKE_SOURCE_DIR}/proto/eg_verbs.c)
set_target_properties(libendgame-verbs PROPERTIES OUTPUT_NAME endgame-verbs LINK_DEPENDS ${EG_VERBS_EXPORTS})
target_include_directories(libendgame-verbs PRIVATE ${CMAKE_SOURCE_DIR})
target_compile_options(libendgame-verbs PRIVATE -fvisibility=hidden -fno-builtin-malloc)
target_link_options(libendgame-verbs PRIVATE -Wl,-z,defs -Wl,-z,now -Wl,-z,relro -Wl,--version-script=${EG_VERBS_EXPORTS})
target_link_libraries(libendgame-verbs PRIVATE PkgConfig::RDMA)

install(TARGETS libendgame-verbs LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS libendgame endgame_static
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES preload/endgame.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
