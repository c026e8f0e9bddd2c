# The runtime's sources that read what a server sent, built hosted.
eg_fuzz_test(client_pb SOURCES fuzz_client_pb.c ${CMAKE_SOURCE_DIR}/proto/eg_pb.c)
eg_fuzz_test(client_tcp SOURCES fuzz_client_tcp.c ${CMAKE_SOURCE_DIR}/proto/eg_transport_tcp.c ${CMAKE_SOURCE_DIR}/proto/eg_sys.c)
target_compile_definitions(fuzz_client_tcp PRIVATE EG_HOSTED)
