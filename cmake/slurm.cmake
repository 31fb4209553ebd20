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
                       SKIP_RETURN_CODE 77 TIMEOUT 300 LABELS "slurm;root")
endfunction()
sm_slurm_test(spellings)

add_test(NAME slurm.killed COMMAND ${Python3_EXECUTABLE} ${sm_slurm_tests}/killed_test.py)
set_tests_properties(slurm.killed PROPERTIES ENVIRONMENT PYTHONDONTWRITEBYTECODE=1
                     SKIP_RETURN_CODE 77 TIMEOUT 60 LABELS "slurm;root")
