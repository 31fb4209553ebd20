# Packages for Debian and for RPM systems, three of each: softmig for nodes with GPUs,
# softmig-controller for slurmctld, softmig-client for where users type sbatch and srun. `make packages`
# builds them; tests/packages installs, upgrades and removes them.
set(sm_packaging ${CMAKE_CURRENT_SOURCE_DIR}/packaging)

# What `softmig install` writes is what the packages bring.
function(sm_read variable path)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${path})
  file(READ ${path} text)
  set(${variable} "${text}" PARENT_SCOPE)
endfunction()
sm_read(sm_tmpfiles ${sm_packaging}/tmpfiles.conf)
sm_read(sm_logrotate ${sm_packaging}/logrotate.conf)
sm_read(sm_smi_hook ${CMAKE_CURRENT_SOURCE_DIR}/scripts/nvidia-smi-hook.sh)
configure_file(${sm_packaging}/node_files.cc.in generated/node_files.cc @ONLY)
if(NOT TARGET softmig_cli)
  return()
endif()
target_sources(sm_cli PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/generated/node_files.cc)
if(SOFTMIG_SANITIZE)
  return() # there is no library that could be preloaded
endif()

set(SOFTMIG_MAINTAINER "SoftMig maintainers <softmig@cluster.invalid>" CACHE STRING
    "Name and address in the packages")

# Documents that are made: the manual (cmake/manual.cmake), Debian's changelog from CHANGELOG.md.
find_package(Python3 COMPONENTS Interpreter)
if(NOT Python3_Interpreter_FOUND)
  message(STATUS "No Python: packages cannot be built")
  return()
endif()
set(sm_made ${CMAKE_CURRENT_BINARY_DIR}/packaging)
set(sm_documents ${Python3_EXECUTABLE} ${sm_packaging}/documents.py)
file(MAKE_DIRECTORY ${sm_made})
set(sm_made_files)
list(APPEND sm_made_files ${sm_manuals})

# softmig: a node. The library of the package is not the one that programs load: its scripts try it
# and put it there.
set(sm_private lib/softmig)
install(TARGETS softmig LIBRARY DESTINATION ${sm_private} COMPONENT node)
install(TARGETS softmig_cli RUNTIME DESTINATION bin COMPONENT node)
install(PROGRAMS scripts/nvidia-smi-hook.sh slurm/prolog_softmig.sh slurm/epilog_softmig.sh
        DESTINATION ${sm_private} COMPONENT node)
install(FILES ${sm_packaging}/tmpfiles.conf DESTINATION lib/tmpfiles.d RENAME softmig.conf
        COMPONENT node)
install(FILES ${sm_packaging}/logrotate.conf DESTINATION /etc/logrotate.d RENAME softmig
        COMPONENT node)
# The node agent, where it is built: its binary and its unit. The scripts in
# packaging/deb and packaging/rpm restart and stop the unit; they do not enable it.
if(TARGET softmigd)
  install(TARGETS softmigd RUNTIME DESTINATION sbin COMPONENT node)
  if(EXISTS ${sm_packaging}/softmigd.service)
    install(FILES ${sm_packaging}/softmigd.service DESTINATION lib/systemd/system COMPONENT node)
  endif()
endif()
install(FILES data/dashboard.json DESTINATION share/doc/softmig/examples COMPONENT node)

# softmig-controller and softmig-client: each has the rules, and needs nothing of the other.
install(FILES slurm/job_submit_softmig.lua slurm/softmig_rules.lua
        DESTINATION share/softmig/controller COMPONENT controller)
install(FILES slurm/cli_filter_softmig.lua slurm/softmig_rules.lua
        DESTINATION share/softmig/client COMPONENT client)

foreach(part node controller client)
  set(package softmig)
  if(NOT part STREQUAL "node")
    set(package softmig-${part})
  endif()
  set(sm_doc share/doc/${package})
  install(FILES slurm/softmig.conf.example docs/slurm.conf.example DESTINATION ${sm_doc}/examples
          COMPONENT ${part})
  install(FILES ${sm_packaging}/README.${part} DESTINATION ${sm_doc} RENAME README COMPONENT ${part})
  install(FILES ${sm_packaging}/copyright DESTINATION ${sm_doc} COMPONENT ${part}_deb)
  set(changelog ${sm_made}/${package}/changelog.gz)
  file(MAKE_DIRECTORY ${sm_made}/${package})
  add_custom_command(OUTPUT ${changelog}
    COMMAND ${sm_documents} changelog ${package} ${PROJECT_VERSION} ${SOFTMIG_MAINTAINER}
            ${CMAKE_CURRENT_SOURCE_DIR}/CHANGELOG.md ${changelog}
    DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/CHANGELOG.md ${sm_packaging}/documents.py VERBATIM)
  list(APPEND sm_made_files ${changelog})
  install(FILES ${changelog} DESTINATION ${sm_doc} COMPONENT ${part}_deb)
  if(EXISTS ${sm_packaging}/deb/${package}.overrides)
    install(FILES ${sm_packaging}/deb/${package}.overrides DESTINATION share/lintian/overrides
            RENAME ${package} COMPONENT ${part}_deb)
  endif()
  install(FILES LICENSE DESTINATION share/licenses/${package} COMPONENT ${part}_rpm)
  install(FILES CHANGELOG.md DESTINATION ${sm_doc} COMPONENT ${part}_rpm)
endforeach()

# cpack packs what it finds built; `packages` builds it first.
set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)
add_custom_target(sm_package_parts ALL DEPENDS ${sm_made_files})
add_custom_target(packages COMMAND ${CMAKE_CPACK_COMMAND} --config CPackConfig.cmake
                  WORKING_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR})
add_dependencies(packages sm_package_parts softmig softmig_cli)
if(TARGET softmigd)
  add_dependencies(packages softmigd)
endif()

set(CPACK_PACKAGE_NAME softmig)
set(CPACK_PACKAGE_VENDOR SoftMig)
set(CPACK_PACKAGE_CONTACT ${SOFTMIG_MAINTAINER})
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/packages)
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ
    GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_VERBATIM_VARIABLES ON)
find_program(SM_DPKG dpkg-deb)
find_program(SM_RPMBUILD rpmbuild)
set(CPACK_GENERATOR)
if(SM_DPKG)
  list(APPEND CPACK_GENERATOR DEB)
endif()
if(SM_RPMBUILD)
  list(APPEND CPACK_GENERATOR RPM)
endif()
# Some documents are of one kind of package alone.
set(CPACK_PROJECT_CONFIG_FILE ${CMAKE_CURRENT_SOURCE_DIR}/cmake/package_parts.cmake)
set(CPACK_COMPONENTS_GROUPING ONE_PER_GROUP)

set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_COMPRESSION_TYPE xz)
set(CPACK_RPM_COMPONENT_INSTALL ON)
set(CPACK_RPM_FILE_NAME RPM-DEFAULT)
set(CPACK_RPM_PACKAGE_RELEASE 1)
set(CPACK_PACKAGE_RELOCATABLE OFF)
set(CPACK_RPM_PACKAGE_LICENSE Apache-2.0)
set(CPACK_RPM_PACKAGE_AUTOPROV OFF) # nothing links with the library
# Folders that other packages own.
set(CPACK_RPM_EXCLUDE_FROM_AUTO_FILELIST_ADDITION /etc /etc/logrotate.d /usr/lib/tmpfiles.d
    /usr/sbin /usr/lib/systemd /usr/lib/systemd/system /usr/share/licenses /usr/share/man
    /usr/share/man/man1 /usr/share/man/man5 /usr/share/man/man7 /usr/share/man/man8)

# sm_package(PART PACKAGE SECTION ARCHITECTURE-OF-DEB OF-RPM SUMMARY TEXT)
macro(sm_package part package section deb_architecture rpm_architecture summary text)
  string(TOUPPER ${part} upper)
  set(CPACK_DEBIAN_${upper}_PACKAGE_NAME ${package})
  set(CPACK_DEBIAN_${upper}_PACKAGE_SECTION ${section})
  set(CPACK_DEBIAN_${upper}_PACKAGE_ARCHITECTURE ${deb_architecture})
  set(CPACK_COMPONENT_${upper}_DESCRIPTION "${summary}\n${text}")
  set(CPACK_DEBIAN_${upper}_DESCRIPTION "${summary}\n${text}")
  set(CPACK_RPM_${upper}_PACKAGE_NAME ${package})
  set(CPACK_RPM_${upper}_PACKAGE_ARCHITECTURE ${rpm_architecture})
  set(CPACK_RPM_${upper}_PACKAGE_SUMMARY "${summary}")
  set(CPACK_RPM_${upper}_PACKAGE_DESCRIPTION "${text}")
endmacro()
sm_package(node softmig admin "" "${CMAKE_SYSTEM_PROCESSOR}"
  "software slices of NVIDIA GPUs"
  "Cuts GPUs into slices of memory and of time. This package is for nodes\nwith GPUs: the library that keeps jobs to their slices, the command\nsoftmig, the prolog and the epilog of Slurm. Nothing loads the library\nbefore an administrator types \"softmig install\".")
sm_package(controller softmig-controller admin all noarch
  "software slices of NVIDIA GPUs, for slurmctld"
  "Cuts GPUs into slices of memory and of time. This package is for Slurm's\ncontroller: the rules that turn --gres=gpu:l40s.4:1 into shards, for its\njob_submit.lua.")
sm_package(client softmig-client admin all noarch
  "software slices of NVIDIA GPUs, for users of Slurm"
  "Cuts GPUs into slices of memory and of time. This package is for login\nnodes and compute nodes: the rules that turn --gres=gpu:l40s.4:1 into\nshards, for Slurm's cli_filter.lua.")
set(CPACK_DEBIAN_NODE_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_NODE_PACKAGE_RECOMMENDS logrotate)
set(CPACK_DEBIAN_NODE_PACKAGE_SUGGESTS "slurmd, softmig-client")
set(CPACK_DEBIAN_CONTROLLER_PACKAGE_SUGGESTS slurmctld)
set(CPACK_DEBIAN_CLIENT_PACKAGE_SUGGESTS slurm-client)
set(CPACK_DEBIAN_NODE_PACKAGE_CONTROL_EXTRA ${sm_packaging}/deb/postinst
    ${sm_packaging}/deb/prerm ${sm_packaging}/deb/postrm ${sm_packaging}/deb/conffiles)
set(CPACK_RPM_NODE_POST_INSTALL_SCRIPT_FILE ${sm_packaging}/rpm/post)
set(CPACK_RPM_NODE_PRE_UNINSTALL_SCRIPT_FILE ${sm_packaging}/rpm/preun)
set(CPACK_RPM_NODE_POST_UNINSTALL_SCRIPT_FILE ${sm_packaging}/rpm/postun)
set(CPACK_RPM_NODE_USER_FILELIST "%config(noreplace) /etc/logrotate.d/softmig")
include(CPack)
foreach(part node controller client)
  cpack_add_component_group(${part})
  foreach(kind "" _deb _rpm)
    if(NOT "${part}${kind}" STREQUAL "${part}")
      cpack_add_component(${part}${kind} GROUP ${part})
    endif()
  endforeach()
  cpack_add_component(${part} GROUP ${part})
endforeach()

find_program(BATS bats)
if(SOFTMIG_TESTS AND BATS)
  foreach(kind deb rpm containers)
    add_test(NAME packages.${kind}
             COMMAND ${BATS} ${CMAKE_CURRENT_SOURCE_DIR}/tests/packages/${kind}.bats)
    set_tests_properties(packages.${kind} PROPERTIES TIMEOUT 300 LABELS "packages;root"
      ENVIRONMENT "SOFTMIG_BUILD=${CMAKE_CURRENT_BINARY_DIR};SOFTMIG_SOURCE=${CMAKE_CURRENT_SOURCE_DIR}")
  endforeach()
  # It uses what the other downloads.
  set_tests_properties(packages.containers PROPERTIES DEPENDS preload.old_glibc)
endif()
