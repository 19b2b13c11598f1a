# cmake -DINPUT=file "-DPRELUDES=file|file..." -DOUTPUT=file.c -DNAME=symbol -P embed.cmake
# Writes a C file that defines `const char NAME[]`, the text of the PRELUDES and of INPUT with a closing NUL.
set(hex "")
string(REPLACE "|" ";" parts "${PRELUDES}")
foreach(part ${parts} "${INPUT}")
  if(parts)
    get_filename_component(file "${part}" NAME)
    string(HEX "#line 1 \"${file}\"\n" line) # so that messages name it
    string(APPEND hex "${line}")
  endif()
  file(READ "${part}" text HEX)
  string(APPEND hex "${text}")
endforeach()
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
string(REGEX REPLACE "(.{80})" "\\1\n" bytes "${bytes}") # 16 bytes a line
file(WRITE "${OUTPUT}.tmp" "extern const char ${NAME}[];\nconst char ${NAME}[] = {\n${bytes}\n0x00};\n")
file(RENAME "${OUTPUT}.tmp" "${OUTPUT}")
