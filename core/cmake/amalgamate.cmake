# SPDX-License-Identifier: MIT
#
# Makes the amalgamation: the whole core as one dibs.c beside its dibs.h, to be
# dropped into another project and compiled there as it is.
#
#     cmake -D SOURCES=a.c|b.c -D INCLUDE_DIRS=dir|dir -D HEADER=dibs.h
#           -D OBJECTS=a.o|b.o -D NM=nm -D VERSION=0.1.0 -D OUTPUT_DIR=dir
#           -P amalgamate.cmake
#
# The sources follow each other in the order given. An #include "file" is
# replaced by the file the first time that it is met, and dropped after that;
# an #include <file> stays. The public header is included, not inlined.
#
# The internal functions that the sources share are global symbols of the
# program that compiles this file. So that none clashes with the program's own,
# each gets a prefix by a macro at the top. Which they are is read from the
# compiled objects.
#
# File contents are only ever searched and cut, never treated as lists: C is
# full of semicolons.

cmake_minimum_required(VERSION 3.25)

foreach(argument IN ITEMS
    SOURCES INCLUDE_DIRS HEADER OBJECTS NM VERSION OUTPUT_DIR)
  if(NOT DEFINED ${argument})
    message(FATAL_ERROR "amalgamate.cmake: -D ${argument}=... is missing")
  endif()
endforeach()
string(REPLACE "|" ";" SOURCES "${SOURCES}")
string(REPLACE "|" ";" INCLUDE_DIRS "${INCLUDE_DIRS}")
string(REPLACE "|" ";" OBJECTS "${OBJECTS}")
cmake_path(GET HEADER FILENAME header_name)

# Where `name`, included by a file in `directory`, stands.
function(find_include name directory path)
  foreach(candidate IN LISTS directory INCLUDE_DIRS)
    if(EXISTS "${candidate}/${name}")
      set(${path} "${candidate}/${name}" PARENT_SCOPE)
      return()
    endif()
  endforeach()
  message(FATAL_ERROR "amalgamate.cmake: cannot find \"${name}\"")
endfunction()

# Append one file to the output, the files that it includes in their places.
function(append_file path)
  cmake_path(GET path FILENAME name)
  cmake_path(GET path PARENT_PATH directory)
  file(READ "${path}" text)
  string(PREPEND text "\n")
  file(APPEND "${output}" "\n/************ ${name} ************/\n")
  while(text MATCHES "\n#[ \t]*include[ \t]*\"([^\"\n]+)\"[^\n]*")
    set(line "${CMAKE_MATCH_0}")
    set(included "${CMAKE_MATCH_1}")
    string(FIND "${text}" "${line}" start)
    string(LENGTH "${line}" length)
    math(EXPR end "${start} + ${length}")
    string(SUBSTRING "${text}" 0 ${start} before)
    string(SUBSTRING "${text}" ${end} -1 text)
    file(APPEND "${output}" "${before}\n")
    append_include("${included}" "${directory}" "${name}")
  endwhile()
  file(APPEND "${output}" "${text}")
endfunction()

# Append an included file unless it has been before.
function(append_include name directory includer)
  if(name STREQUAL header_name)
    return()
  endif()
  find_include("${name}" "${directory}" path)
  get_property(seen GLOBAL PROPERTY seen)
  if(path IN_LIST seen)
    return()
  endif()
  set_property(GLOBAL APPEND PROPERTY seen "${path}")
  append_file("${path}")
  file(APPEND "${output}" "\n/************ ${includer}, on ************/\n")
endfunction()

# The macros that give internal global symbols their prefix.
function(append_prefixes)
  execute_process(
    COMMAND "${NM}" --extern-only --defined-only ${OBJECTS}
    OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "[A-Z] [A-Za-z0-9_]+" symbols "${symbols}")
  list(TRANSFORM symbols REPLACE "^. " "")
  list(FILTER symbols EXCLUDE REGEX "^dibs_|^__")
  list(REMOVE_DUPLICATES symbols)
  list(SORT symbols)
  file(APPEND "${output}" "\n/* What follows is not for other files. */\n")
  foreach(symbol IN LISTS symbols)
    file(APPEND "${output}" "#define ${symbol} dibs_internal_${symbol}\n")
  endforeach()
endfunction()

file(MAKE_DIRECTORY "${OUTPUT_DIR}")
set(output "${OUTPUT_DIR}/dibs.c.new")
file(WRITE "${output}" "/* SPDX-License-Identifier: MIT */
/*
** dibs ${VERSION}, the whole core in one file, made from its sources.
** Compile it as C11 and link with SQLite 3.38 or newer, pthread and libm:
**
**     cc -std=c11 -O2 -c dibs.c
*/
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include \"${header_name}\"
")
append_prefixes()
foreach(source IN LISTS SOURCES)
  append_file("${source}")
endforeach()
file(RENAME "${output}" "${OUTPUT_DIR}/dibs.c")
file(COPY_FILE "${HEADER}" "${OUTPUT_DIR}/${header_name}")
