# What `cmake --install` installs, in two components:
#   programs   engram-server, engram, engram-bench, engram-eval, and what makes
#              shells complete engram (clients/CMakeLists.txt)
#   client     the C++ client: library, headers, protos, and a CMake package, so
#              that find_package(engram) gives engram::client
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(TARGETS engram-server engram engram-bench engram-eval
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT programs)

set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/engram)
# Headers are included as in this project, from a folder of their own.
set(include_folder ${CMAKE_INSTALL_INCLUDEDIR}/engram)

set_target_properties(engram_options PROPERTIES EXPORT_NAME options)
set_target_properties(engram_proto PROPERTIES EXPORT_NAME proto)
set_target_properties(engram_client PROPERTIES EXPORT_NAME client)
# What it uses inside.
set_target_properties(engram_shell PROPERTIES EXPORT_NAME shell)
set_target_properties(engram_status PROPERTIES EXPORT_NAME status)
set_target_properties(engram_tls PROPERTIES EXPORT_NAME tls)
install(TARGETS
  engram_options engram_shell engram_status engram_tls engram_proto
  engram_client
  EXPORT engram
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT client
  INCLUDES DESTINATION ${include_folder})
install(EXPORT engram NAMESPACE engram:: DESTINATION ${package_folder}
  COMPONENT client)

install(DIRECTORY ${PROJECT_BINARY_DIR}/proto/engram
  DESTINATION ${include_folder} COMPONENT client
  FILES_MATCHING PATTERN "*.pb.h" PATTERN CMakeFiles EXCLUDE)
# client.h, and what it includes.
install(FILES
  ${PROJECT_SOURCE_DIR}/clients/cpp/caller_options.h
  ${PROJECT_SOURCE_DIR}/clients/cpp/cancellation.h
  ${PROJECT_SOURCE_DIR}/clients/cpp/client.h
  ${PROJECT_SOURCE_DIR}/clients/cpp/tls_options.h
  DESTINATION ${include_folder}/clients/cpp COMPONENT client)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/proto/engram
  DESTINATION ${CMAKE_INSTALL_DATADIR}/engram/proto COMPONENT client
  FILES_MATCHING PATTERN "*.proto")

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/engram-config.cmake.in
  ${PROJECT_BINARY_DIR}/cmake/engram-config.cmake
  INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(
  ${PROJECT_BINARY_DIR}/cmake/engram-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES
  ${PROJECT_BINARY_DIR}/cmake/engram-config.cmake
  ${PROJECT_BINARY_DIR}/cmake/engram-config-version.cmake
  DESTINATION ${package_folder} COMPONENT client)
