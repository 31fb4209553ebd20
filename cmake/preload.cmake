# Flags of everything that enters another process. The preload links libc alone: a stray `new`, a
# guarded static or a symbol newer than the floor is a link error or fails tools/check_exports.sh.
function(sm_preload_flags target)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-fno-exceptions -fno-rtti -fno-threadsafe-statics>
    -fvisibility=hidden -ftls-model=initial-exec -fno-stack-protector -U_FORTIFY_SOURCE
    -ffunction-sections -fdata-sections -fno-asynchronous-unwind-tables)
  if(SOFTMIG_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${SOFTMIG_SANITIZE} -g -O1)
  endif()
endfunction()

# Symbols are bound when they are first used: most processes never use any.
function(sm_preload_link target)
  if(SOFTMIG_SANITIZE)
    set_target_properties(${target} PROPERTIES EXCLUDE_FROM_ALL ON)
    return()
  endif()
  set(script ${CMAKE_SOURCE_DIR}/cmake/exports.map)
  set_target_properties(${target} PROPERTIES LINK_DEPENDS ${script})
  target_link_options(${target} PRIVATE -nodefaultlibs -Wl,-z,defs -Wl,-z,lazy -Wl,-z,relro
    -Wl,-z,nodelete -Wl,--gc-sections -Wl,-Bsymbolic-functions -Wl,--hash-style=gnu -Wl,--version-script=${script})
  target_link_libraries(${target} PRIVATE c gcc)
endfunction()
