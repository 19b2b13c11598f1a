# cmake -DINPUT=file -DOUTPUT=file.c -DNAME=symbol -P embed.cmake
# Writes a C file that defines `const char NAME[]`, the text of INPUT with a closing NUL.
file(READ "${INPUT}" hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
string(REGEX REPLACE "(.{80})" "\\1\n" bytes "${bytes}") # 16 bytes a line
file(WRITE "${OUTPUT}.tmp" "extern const char ${NAME}[];\nconst char ${NAME}[] = {\n${bytes}\n0x00};\n")
file(RENAME "${OUTPUT}.tmp" "${OUTPUT}")
