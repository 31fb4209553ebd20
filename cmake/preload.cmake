# Flags of everything that enters another process. The preload links libc alone: a stray `new`, a
# guarded static or a symbol newer than the floor is a link error or fails tools/check_exports.sh.
function(sm_preload_flags target)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-fno-exceptions -fno-rtti -fno-threadsafe-statics>
    -fvisibility=hidden -ftls-model=initial-exec -fno-stack-protector -U_FORTIFY_SOURCE
    -ffunction-sections -fdata-sections -fno-asynchronous-unwind-tables
    # Launches are 10 to 20 ns cheaper than with -O2.
    $<$<CONFIG:Release>:-O3>)
  # Else the compiler's own library asks the processor what it can, in a constructor.
  if(CMAKE_SYSTEM_PROCESSOR STREQUAL aarch64)
    target_compile_options(${target} PRIVATE -mno-outline-atomics)
  endif()
endfunction()

# Every exec on a node pays for what the dynamic linker does here, and most processes never call a
# function of the library. So nothing runs at its start or end (no start files), symbols are bound
# when they are first used (one that an old libc lacks then stops no exec either), one mapping holds
# all that is only read, and no second call to the kernel makes read-only what lazy binding would
# leave writable for the greater part (norelro).
function(sm_preload_link target)
  if(SOFTMIG_SANITIZE)
    set_target_properties(${target} PROPERTIES EXCLUDE_FROM_ALL ON)
    return()
  endif()
  set(script ${softmig_SOURCE_DIR}/cmake/exports.map)
  set_target_properties(${target} PROPERTIES LINK_DEPENDS ${script})
  target_link_options(${target} PRIVATE -nostartfiles -nodefaultlibs -Wl,-z,defs -Wl,-z,lazy
    -Wl,-z,norelro -Wl,-z,noseparate-code -Wl,-z,nodelete -Wl,--gc-sections -Wl,-Bsymbolic-functions
    -Wl,--hash-style=gnu -Wl,--version-script=${script})
  target_link_libraries(${target} PRIVATE c gcc)
endfunction()
