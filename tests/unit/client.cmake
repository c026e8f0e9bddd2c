# The runtime's sources built hosted: what eg_core is made of, without the freestanding flags, so that the sanitizers see it.
# EG_HOSTED leaves memcpy and its like to libc. eg_runtime_test(NAME SOURCES... LIBRARIES...): as eg_unit_test.
set(EG_PROTO ${CMAKE_SOURCE_DIR}/proto)
set(EG_PAGER ${CMAKE_SOURCE_DIR}/client/pager)
set(EG_GATE ${CMAKE_SOURCE_DIR}/client/gate)
function(eg_runtime_test name)
  eg_unit_test(${name} ${ARGN})
  target_sources(unit_${name} PRIVATE ${EG_PROTO}/eg_sys.c)
  target_compile_definitions(unit_${name} PRIVATE EG_HOSTED)
endfunction()

eg_runtime_test(client_range SOURCES client_range.c ${EG_PAGER}/eg_range.c)
target_link_options(unit_client_range PRIVATE -Wl,--wrap=eg_sys_map)
eg_runtime_test(client_block SOURCES client_block.c ${EG_PAGER}/block.c ${EG_PAGER}/eg_range.c)
target_link_options(unit_client_block PRIVATE -Wl,--wrap=eg_sys_map)
eg_runtime_test(client_pins SOURCES client_pins.c ${EG_PAGER}/pins.c ${EG_PAGER}/eg_range.c ${EG_PAGER}/block.c)
eg_runtime_test(client_sum SOURCES client_sum.c ${EG_PAGER}/sum.c)
eg_runtime_test(client_dir SOURCES client_dir.c ${CMAKE_SOURCE_DIR}/client/threads/dir.c)
eg_runtime_test(client_sleep SOURCES client_sleep.c)
eg_runtime_test(client_view SOURCES client_view.c ${CMAKE_SOURCE_DIR}/client/threads/view_text.c)
# Only the pure part of fetch.c is under test: the linker drops the rest, and with it what the rest would need.
eg_runtime_test(client_stream SOURCES client_stream.c ${EG_PAGER}/fetch.c)
target_compile_options(unit_client_stream PRIVATE -ffunction-sections)
target_link_options(unit_client_stream PRIVATE -Wl,--gc-sections)
# The command's: hosted as it is.
set(EG_CLI ${CMAKE_SOURCE_DIR}/client/cli)
eg_unit_test(client_hints SOURCES client_hints.c ${EG_CLI}/cli_hints.c ${EG_CLI}/cli_profile.c ${EG_CLI}/cli_symbol.c LIBRARIES eg_proto)
eg_runtime_test(proto_pb SOURCES proto_pb.c ${EG_PROTO}/eg_pb.c LIBRARIES eg_proto)
eg_runtime_test(proto_tcp SOURCES proto_tcp.c ${EG_PROTO}/eg_transport_tcp.c ${EG_PROTO}/eg_transport_shm.c)
eg_runtime_test(proto_frame SOURCES proto_frame.c ${EG_PROTO}/eg_frame.c)
eg_runtime_test(gate_patch SOURCES gate_patch.c gate_text.c gate_patch_run.S ${EG_GATE}/patch.c ${EG_GATE}/gate.S)
eg_runtime_test(gate_patch_all SOURCES gate_patch_all.c gate_text.c gate_patch_run.S ${EG_GATE}/patch.c ${EG_GATE}/patch_all.c ${EG_GATE}/window.c ${EG_GATE}/site.c
  ${EG_GATE}/jumps.c ${EG_GATE}/trampoline.c ${EG_GATE}/late.c ${EG_GATE}/sections.c ${EG_GATE}/texts.c ${EG_GATE}/insn.c ${EG_GATE}/gate.S)
eg_runtime_test(gate_insn SOURCES gate_insn.c ${EG_GATE}/insn.c)
foreach(name gate_signals gate_signal_state)
  eg_runtime_test(${name} SOURCES ${name}.c gate_handlers.c ${EG_GATE}/signals.c ${EG_GATE}/signal_calls.c ${EG_GATE}/signal_state.c ${EG_GATE}/traceme.c ${EG_GATE}/signals.S)
endforeach()
foreach(name gate_buffers gate_pin)
  eg_runtime_test(${name} SOURCES ${name}.c gate_far.c ${EG_GATE}/buffers.c ${EG_GATE}/large.c ${EG_GATE}/pin.c ${EG_PAGER}/pins.c ${EG_PAGER}/eg_range.c
    ${EG_PAGER}/block.c)
endforeach()

add_test(NAME unit.runtime_exports
  COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/runtime_exports.test $<TARGET_FILE:libendgame> ${CMAKE_SOURCE_DIR}/client/preload/endgame.map ${CMAKE_NM})
add_test(NAME unit.runtime_freestanding
  COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/runtime_freestanding.test ${CMAKE_SOURCE_DIR}/scripts/check-freestanding
    $<TARGET_FILE:eg_core> ${CMAKE_C_COMPILER} ${CMAKE_LINKER} ${CMAKE_NM})
set_tests_properties(unit.runtime_exports unit.runtime_freestanding PROPERTIES TIMEOUT 60 LABELS "unit;freestanding")
