# ncurses, for `softmig top`.
set(CURSES_NEED_NCURSES TRUE)
find_package(Curses REQUIRED)
target_include_directories(softmig_cli PRIVATE ${CURSES_INCLUDE_DIRS})
target_link_libraries(softmig_cli PRIVATE ${CURSES_LIBRARIES})
