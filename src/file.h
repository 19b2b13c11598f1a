/* file: whole files in and out. */
#ifndef MOET_FILE_H
#define MOET_FILE_H

#include "status.h"

/* Reads a regular file of at most `limit_bytes` into malloc'd memory with a NUL behind it. NOT_FOUND, IO or MALFORMED
 * (larger than the limit) name the path. */
moet_status moet_file_read(const char *path, size_t limit_bytes, char **bytes, size_t *size_bytes);
/* The same of a FIFO or device too, to its end: waits for what writes it. */
moet_status moet_file_read_any(const char *path, size_t limit_bytes, char **bytes, size_t *size_bytes);
/* The same of an open file, from where it is; path is for messages. */
moet_status moet_file_read_open(int fd, const char *path, size_t limit_bytes, char **bytes, size_t *size_bytes);

/* Writes path by temp file, fsync and rename: afterwards the old content is there or the new one, nothing between. The
 * new file has the old one's mode, and a link stays one: its target is replaced. What is no regular file, such as a
 * device or a FIFO, is written to as it is. */
moet_status moet_file_replace(const char *path, const void *bytes, size_t size_bytes);
/* IO where moet_file_replace would fail already, for work that takes long before it. Writes and opens nothing. */
moet_status moet_file_check(const char *path);

#endif
