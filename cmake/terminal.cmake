# ncurses, for `softmig top`. Linked statically where that can be had: Slurm's prolog runs the same
# binary, and a library that is missing on a node would drain it.
find_library(SM_NCURSES_STATIC NAMES libncurses.a)
find_library(SM_TINFO_STATIC NAMES libtinfo.a)
find_path(SM_NCURSES_HEADERS NAMES ncurses.h)
if(SM_NCURSES_STATIC AND SM_TINFO_STATIC AND SM_NCURSES_HEADERS)
  target_link_libraries(sm_cli PUBLIC ${SM_NCURSES_STATIC} ${SM_TINFO_STATIC})
else()
  set(CURSES_NEED_NCURSES TRUE)
  find_package(Curses REQUIRED)
  target_include_directories(sm_cli PUBLIC ${CURSES_INCLUDE_DIRS})
  target_link_libraries(sm_cli PUBLIC ${CURSES_LIBRARIES})
endif()
