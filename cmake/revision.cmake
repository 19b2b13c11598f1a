# cmake -DSOURCE=folder -DOUTPUT=file.c -P revision.cmake
# Writes a C file that defines `const char moet_revision[]`, what git calls the sources in SOURCE; "release" where
# SOURCE is no git checkout, though it may lie within another's; "unknown" where it is one and git cannot say. A file
# that says so already is left as it is, so that nothing is built again.
set(revision release)
if(EXISTS "${SOURCE}/.git")
  execute_process(COMMAND git -C "${SOURCE}" describe --always --dirty --abbrev=12
    OUTPUT_VARIABLE revision OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(NOT revision)
    set(revision unknown)
  endif()
endif()
file(CONFIGURE OUTPUT "${OUTPUT}" CONTENT
  "extern const char moet_revision[];\nconst char moet_revision[] = \"${revision}\";\n" @ONLY)
