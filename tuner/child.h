/* child: programs of others that the commands run: gnuplot, ncu, nsys. */
#ifndef MOET_CHILD_H
#define MOET_CHILD_H

#include "../src/moet.h"

/* Where a program is: a path with '/' as it is, a name along PATH and then in folders[] (NULL-ended; the last one in
 * order of text where a folder has a '*'). malloc'd into *path. NOT_FOUND names the program and `remedy`. */
moet_status moet_child_find(const char *name, const char *const *folders, const char *remedy, char **path);

/* Runs argv[0] (NULL-ended), waits, and gives its exit code; 128 + N where signal N ended it. Its output goes to the
 * files out_path and err_path, which may be one; NULL: where ours goes. Input is none. */
moet_status moet_child_run(const char *const *argv, const char *out_path, const char *err_path, int *exit_code);

/* A fresh folder under $TMPDIR, or /tmp, into path[MOET_CHILD_FOLDER_SIZE]; remove takes it away with its files. */
#define MOET_CHILD_FOLDER_SIZE 256
moet_status moet_child_folder_make(char *path);
void moet_child_folder_remove(const char *path);

#endif
