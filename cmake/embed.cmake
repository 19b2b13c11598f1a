# cmake -DINPUT=file [-DPRELUDE=file] -DOUTPUT=file.c -DNAME=symbol -P embed.cmake
# Writes a C file that defines `const char NAME[]`, the text of PRELUDE and INPUT with a closing NUL.
set(hex "")
if(PRELUDE)
  file(READ "${PRELUDE}" hex HEX)
  get_filename_component(file "${INPUT}" NAME)
  string(HEX "\n#line 1 \"${file}\"\n" line) # so that messages name lines of INPUT
  string(APPEND hex "${line}")
endif()
file(READ "${INPUT}" text HEX)
string(APPEND hex "${text}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
string(REGEX REPLACE "(.{80})" "\\1\n" bytes "${bytes}") # 16 bytes a line
file(WRITE "${OUTPUT}.tmp" "extern const char ${NAME}[];\nconst char ${NAME}[] = {\n${bytes}\n0x00};\n")
file(RENAME "${OUTPUT}.tmp" "${OUTPUT}")
