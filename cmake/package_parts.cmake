# Read by cpack for each kind of package: which parts it has.
string(TOLOWER ${CPACK_GENERATOR} sm_kind)
set(CPACK_COMPONENTS_ALL)
foreach(part node controller client)
  list(APPEND CPACK_COMPONENTS_ALL ${part} ${part}_${sm_kind})
endforeach()
