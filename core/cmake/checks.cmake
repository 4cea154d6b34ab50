# SPDX-License-Identifier: MIT
#
# Checks of what a user receives: the header, the symbols, the amalgamation and
# the installed tree. Each is a test of its own; the scripts in checks/ say
# what they look for, and can be run by hand.

set(dibs_checks_dir ${CMAKE_CURRENT_LIST_DIR}/checks)
set(dibs_strict_flags ${dibs_warnings} -Werror)
list(REMOVE_DUPLICATES dibs_strict_flags)

# build.NAME runs a command and passes when it succeeds.
function(dibs_add_check name)
  add_test(NAME build.${name} COMMAND ${ARGN})
  set_tests_properties(build.${name} PROPERTIES LABELS fast TIMEOUT 120)
endfunction()

# The header needs nothing before it, in either language.
dibs_add_check(header_is_c11
  ${CMAKE_C_COMPILER} -std=c11 ${dibs_strict_flags} -fsyntax-only -x c
  -I ${CMAKE_CURRENT_SOURCE_DIR}/include ${dibs_checks_dir}/header.c)
dibs_add_check(header_is_cxx11
  ${CMAKE_CXX_COMPILER} -std=c++11 ${dibs_strict_flags} -fsyntax-only -x c++
  -I ${CMAKE_CURRENT_SOURCE_DIR}/include ${dibs_checks_dir}/header.c)

dibs_add_check(calls_of_sqlite_are_looked_for
  ${dibs_checks_dir}/provider ${dibs_sources})

# Instrumented code has symbols of its own, and needs its users instrumented.
if(NOT DIBS_SANITIZE AND NOT DIBS_COVERAGE)
  dibs_add_check(shared_library_exports_the_header
    ${dibs_checks_dir}/exports ${CMAKE_CURRENT_SOURCE_DIR}/include/dibs.h
    $<TARGET_FILE:dibs_shared>)
  dibs_add_check(static_library_exports_the_header
    ${dibs_checks_dir}/exports ${CMAKE_CURRENT_SOURCE_DIR}/include/dibs.h
    $<TARGET_FILE:dibs_static>)
  if(TARGET dibs_extension)
    dibs_add_check(extension_exports_its_entry
      ${dibs_checks_dir}/entry $<TARGET_FILE:dibs_extension>)
  endif()
  dibs_add_check(amalgamation_compiles_alone
    ${dibs_checks_dir}/amalgamation ${dibs_amalgamation_dir}
    ${CMAKE_C_COMPILER} -std=c11 ${dibs_strict_flags})
  dibs_add_check(installed_library_is_usable
    ${dibs_checks_dir}/install ${PROJECT_BINARY_DIR} ${CMAKE_COMMAND}
    ${CMAKE_C_COMPILER} $<IF:$<TARGET_EXISTS:dibs>,program,library>)
endif()
