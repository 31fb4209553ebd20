# softmigd, where prometheus-cpp is installed: everything else builds without it.
find_package(prometheus-cpp CONFIG QUIET)
if(NOT prometheus-cpp_FOUND)
  message(STATUS "prometheus-cpp is not there: softmigd is not built")
  return()
endif()

find_package(CLI11 REQUIRED)
find_package(Threads REQUIRED)
file(GLOB agent_sources CONFIGURE_DEPENDS src/agent/*.cc)
list(REMOVE_ITEM agent_sources ${CMAKE_SOURCE_DIR}/src/agent/main.cc)
add_library(sm_agent STATIC ${agent_sources} $<TARGET_OBJECTS:sm_host> $<TARGET_OBJECTS:sm_core>)
target_include_directories(sm_agent PUBLIC src)
target_link_libraries(sm_agent PUBLIC fmt::fmt prometheus-cpp::pull Threads::Threads ${CMAKE_DL_LIBS})

add_executable(softmigd src/agent/main.cc)
target_compile_definitions(softmigd PRIVATE SOFTMIG_VERSION="${PROJECT_VERSION}")
target_link_libraries(softmigd PRIVATE sm_agent CLI11::CLI11)
