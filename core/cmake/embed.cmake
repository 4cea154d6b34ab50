# SPDX-License-Identifier: MIT
#
# Writes a file's bytes as a C array that ends in a NUL byte. Bytes rather than
# a string literal, because C11 promises no literal longer than 4095 bytes.
#
#     cmake -D INPUT=1.sql -D OUTPUT=dibs_schema_1.h -D NAME=dibs_schema_1
#           -P embed.cmake

cmake_minimum_required(VERSION 3.25)

foreach(argument IN ITEMS INPUT OUTPUT NAME)
  if(NOT DEFINED ${argument})
    message(FATAL_ERROR "embed.cmake: -D ${argument}=... is missing")
  endif()
endforeach()

# As character constants: 0xc3 would not fit into a char that is signed.
file(READ "${INPUT}" hex HEX)
string(REGEX REPLACE "(..)" "'\\\\x\\1', " bytes "${hex}")
string(REPEAT "'.x..', " 9 row)
string(REGEX REPLACE "(${row})" "\\1\n  " bytes "${bytes}")
string(REPLACE " \n" "\n" bytes "${bytes}")
cmake_path(GET INPUT FILENAME input_name)

file(WRITE "${OUTPUT}.new" "/* SPDX-License-Identifier: MIT */
/* The bytes of ${input_name}, written by embed.cmake. */
static const char ${NAME}[] = {
  ${bytes}0
};
")
file(RENAME "${OUTPUT}.new" "${OUTPUT}")
