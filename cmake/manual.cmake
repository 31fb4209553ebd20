# Manual pages, in build/man and gzipped for the packages. packaging/manual.py makes them of what the
# commands say of themselves and of the documents. Sets sm_manuals, the gzipped ones.
set(sm_manuals)
find_package(Python3 COMPONENTS Interpreter)
if(NOT TARGET softmig_cli OR SOFTMIG_SANITIZE OR NOT Python3_Interpreter_FOUND)
  message(STATUS "No command, no Python, or a sanitizer: no manual pages")
  return()
endif()

set(sm_manual_script ${CMAKE_CURRENT_SOURCE_DIR}/packaging/manual.py)
file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/man ${CMAKE_CURRENT_BINARY_DIR}/packaging)
set(sm_manual_pages softmig.1 softmig.conf.5 libsoftmig.7)
set(sm_manual_programs --softmig $<TARGET_FILE:softmig_cli>)
set(sm_manual_targets softmig_cli)
if(TARGET softmigd)
  list(APPEND sm_manual_pages softmigd.8)
  list(APPEND sm_manual_programs --softmigd $<TARGET_FILE:softmigd>)
  list(APPEND sm_manual_targets softmigd)
endif()
foreach(page ${sm_manual_pages})
  set(made ${CMAKE_CURRENT_BINARY_DIR}/man/${page})
  set(zipped ${CMAKE_CURRENT_BINARY_DIR}/packaging/${page}.gz)
  add_custom_command(OUTPUT ${made} ${zipped}
    COMMAND ${Python3_EXECUTABLE} ${sm_manual_script} ${page} ${PROJECT_VERSION} ${made}
            ${sm_manual_programs} --gzip ${zipped}
    DEPENDS ${sm_manual_targets} ${sm_manual_script} src/policy/failure.h README.md docs/agent.md
            docs/cli.md docs/configuration.md docs/slurm.md VERBATIM)
  list(APPEND sm_manuals ${zipped})
  string(REGEX MATCH "[0-9]$" section ${page})
  install(FILES ${zipped} DESTINATION share/man/man${section} COMPONENT node)
endforeach()
add_custom_target(sm_manual ALL DEPENDS ${sm_manuals})
