/* module_cache: compiled kernels on disk, for module.c. Nothing here can fail in a way that matters: a cache that
 * cannot be read or written costs a compilation. */
#ifndef MOET_MODULE_CACHE_H
#define MOET_MODULE_CACHE_H

#include "module.h"

/* Writes the cache's folder, ended by no '/', into folder[size_bytes]: $MOET_CACHE_DIR, else $XDG_CACHE_HOME/moe-tune,
 * else $HOME/.cache/moe-tune. "" where there is none to be had. True where something can be made there, or in
 * the nearest folder above it that exists: this is tried. */
bool moet_module_cache_folder(char *folder, size_t size_bytes);

/* Whether there is a file of `key`, whatever is in it. */
bool moet_module_cache_has(const char *key);

/* Fills bytes and size_bytes from the file of `key`; false where it is missing, truncated or altered. */
bool moet_module_cache_read(const char *key, moet_cubin *cubin);

/* Writes the file of `key` by temp file and rename: readers and other writers see a whole file or none. */
void moet_module_cache_write(const char *key, const moet_cubin *cubin);

#endif
