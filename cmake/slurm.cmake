# Tests of what SoftMig puts into Slurm: the Lua plugins by themselves, and a real Slurm in a lab.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
set(sm_lua_tests ${CMAKE_SOURCE_DIR}/tests/lua)
set(sm_slurm_tests ${CMAKE_SOURCE_DIR}/tests/slurm)

# Slurm brings Lua 5.1 (Debian) to 5.4 (EL 9): the rules must hold in all of them.
foreach(version 5.1 5.2 5.3 5.4)
  add_test(NAME lua.${version} COMMAND ${sm_lua_tests}/run.sh lua${version})
  set_tests_properties(lua.${version} PROPERTIES ENVIRONMENT "SOFTMIG_SOURCE=${CMAKE_SOURCE_DIR}"
                       SKIP_RETURN_CODE 77 TIMEOUT 60 LABELS slurm)
endforeach()

# As root only. Each has a Slurm of its own, so they may run beside each other.
function(sm_slurm_test name)
  add_test(NAME slurm.${name}
           COMMAND ${Python3_EXECUTABLE} ${sm_slurm_tests}/lab.py ${sm_slurm_tests}/${name}_test.py)
  set_tests_properties(slurm.${name} PROPERTIES ENVIRONMENT "PYTHONDONTWRITEBYTECODE=1;${ARGN}"
                       SKIP_RETURN_CODE 77 TIMEOUT 300 LABELS "slurm;root;timed")
endfunction()
sm_slurm_test(spellings)
if(TARGET softmig_cli AND TARGET sim_nvml_130 AND NOT SOFTMIG_SANITIZE)
  sm_slurm_test(slices SOFTMIG=$<TARGET_FILE:softmig_cli>
                SOFTMIG_SIM_NVML=$<TARGET_FILE_DIR:sim_nvml_130>)
endif()

add_test(NAME slurm.killed COMMAND ${Python3_EXECUTABLE} ${sm_slurm_tests}/killed_test.py)
set_tests_properties(slurm.killed PROPERTIES ENVIRONMENT PYTHONDONTWRITEBYTECODE=1
                     SKIP_RETURN_CODE 77 TIMEOUT 60 LABELS "slurm;root;timed")

# What job-start makes of Slurm's words.
find_package(GTest REQUIRED)
file(GLOB slurm_unit_sources CONFIGURE_DEPENDS ${sm_slurm_tests}/unit/*.cc)
add_executable(slurm_units ${slurm_unit_sources} src/cli/child.cc src/cli/gpu_list.cc
               src/cli/gpu_order.cc src/cli/job_gres.cc src/cli/job_plan.cc src/cli/job_query.cc
               src/cli/node_state.cc src/cli/slot_board.cc src/cli/output.cc
               $<TARGET_OBJECTS:sm_host> $<TARGET_OBJECTS:sm_core>)
target_include_directories(slurm_units PRIVATE src)
target_compile_definitions(slurm_units PRIVATE SOFTMIG_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
target_link_libraries(slurm_units PRIVATE fmt::fmt GTest::gmock GTest::gtest GTest::gtest_main ${CMAKE_DL_LIBS})
if(SOFTMIG_SANITIZE)
  target_compile_options(slurm_units PRIVATE -fsanitize=${SOFTMIG_SANITIZE} -g)
  target_link_options(slurm_units PRIVATE -fsanitize=${SOFTMIG_SANITIZE})
endif()
add_test(NAME slurm.units COMMAND slurm_units)
