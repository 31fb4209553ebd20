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

# As root only. Each has a Slurm of its own and mostly waits for it: two at a time. `kind` is how Slurm
# knows a job's processes; kinds that the machine does not permit are skipped.
set(sm_labs 0)
function(sm_slurm_test name script kind)
  math(EXPR lab "${sm_labs} % 2")
  math(EXPR count "${sm_labs} + 1")
  set(sm_labs ${count} PARENT_SCOPE)
  add_test(NAME slurm.${name}
           COMMAND ${Python3_EXECUTABLE} ${sm_slurm_tests}/lab.py --tracking=${kind}
                   ${sm_slurm_tests}/${script}_test.py)
  set_tests_properties(slurm.${name} PROPERTIES ENVIRONMENT "PYTHONDONTWRITEBYTECODE=1;${ARGN}"
                       SKIP_RETURN_CODE 77 TIMEOUT 150 LABELS "slurm;root;waits" RESOURCE_LOCK slurm${lab})
endfunction()
sm_slurm_test(spellings spellings linuxproc)
if(TARGET softmig_cli AND TARGET sim_nvml_130 AND NOT SOFTMIG_SANITIZE)
  add_library(slurm_only_v2 SHARED ${sm_slurm_tests}/only_v2.c)
  add_library(slurm_own_dlsym SHARED ${sm_slurm_tests}/own_dlsym.c)
  set(sm_site SOFTMIG=$<TARGET_FILE:softmig_cli> SOFTMIG_LIBRARY=$<TARGET_FILE:softmig>
      SOFTMIG_SIM_DRIVER=$<TARGET_FILE_DIR:sim_cuda_130>
      SOFTMIG_SIM_NVML=$<TARGET_FILE_DIR:sim_nvml_130> SOFTMIG_SIM_TOOL=$<TARGET_FILE:sim_tool>
      SOFTMIG_LAB_ONLY_V2=$<TARGET_FILE:slurm_only_v2>
      SOFTMIG_OWN_DLSYM=$<TARGET_FILE:slurm_own_dlsym>)
  sm_slurm_test(slices slices linuxproc ${sm_site})
  foreach(kind linuxproc cgroup1 cgroup2)
    sm_slurm_test(enforced.${kind} enforced ${kind} ${sm_site})
    sm_slurm_test(escapes.${kind} escapes ${kind} ${sm_site})
    sm_slurm_test(admin.${kind} admin ${kind} ${sm_site})
  endforeach()
  sm_slurm_test(faults faults linuxproc ${sm_site})
  sm_slurm_test(burst burst linuxproc ${sm_site})
  # What is carried to a machine with a card, on this one without Slurm. `make lab-packed`: on a bare one.
  add_test(NAME slurm.packed COMMAND ${sm_slurm_tests}/packed.sh own ${CMAKE_BINARY_DIR} --seconds 5)
  set_tests_properties(slurm.packed PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 150
                       LABELS "slurm;root;waits" RESOURCE_LOCK slurm0)
  set_tests_properties(slurm.burst PROPERTIES LABELS "slurm;root;timed")
endif()

add_test(NAME slurm.killed COMMAND ${Python3_EXECUTABLE} ${sm_slurm_tests}/killed_test.py)
set_tests_properties(slurm.killed PROPERTIES ENVIRONMENT PYTHONDONTWRITEBYTECODE=1
                     SKIP_RETURN_CODE 77 TIMEOUT 60 LABELS "slurm;root;timed")

# What job-start makes of Slurm's words.
find_package(GTest REQUIRED)
file(GLOB slurm_unit_sources CONFIGURE_DEPENDS ${sm_slurm_tests}/unit/*.cc)
add_executable(slurm_units ${slurm_unit_sources})
target_compile_options(slurm_units PRIVATE -O1) # tests that are built sooner
target_compile_definitions(slurm_units PRIVATE SOFTMIG_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
target_link_libraries(slurm_units PRIVATE sm_cli GTest::gmock GTest::gtest GTest::gtest_main)
add_test(NAME slurm.units COMMAND slurm_units)
