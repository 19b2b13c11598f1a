/* A cache file is the cubin, then the key and the cubin's SHA-256 as hex: a file that is cut short, altered or under
 * another's name is seen and compiled anew. */
#include "module_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HASH_TEXT_BYTES (MOET_SHA256_TEXT_SIZE - 1)
#define TRAILER_BYTES (2 * HASH_TEXT_BYTES)
#define MAX_FILE_BYTES ((off_t)256 << 20) /* a larger file is not ours */

/* The cache folder without a trailing '/'; false where there is none to be had. */
static bool find_folder(char folder[PATH_MAX])
{
    const char *own = getenv("MOET_CACHE_DIR"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int length = -1;
    if (own && *own)
        length = snprintf(folder, PATH_MAX, "%s", own);
    else if (xdg && *xdg == '/')
        length = snprintf(folder, PATH_MAX, "%s/moe-tune", xdg); /* a relative one is ignored */
    else if (home && *home)
        length = snprintf(folder, PATH_MAX, "%s/.cache/moe-tune", home);
    return length > 0 && length < PATH_MAX;
}

bool moet_module_cache_folder(char *folder, size_t size_bytes)
{
    char path[PATH_MAX], probe[PATH_MAX + 16];
    if (!find_folder(path)) path[0] = '\0';
    snprintf(folder, size_bytes, "%s", path);
    /* What is not there yet would be made in the nearest folder above it that is. */
    while (*path && access(path, F_OK) != 0 && errno == ENOENT) {
        char *slash = strrchr(path, '/');
        if (!slash)
            snprintf(path, sizeof path, ".");
        else
            slash[slash == path] = '\0';
    }
    /* Tried: permissions alone say nothing of read-only and special file systems. */
    snprintf(probe, sizeof probe, "%s/.moet-XXXXXX", path);
    return *path && mkdtemp(probe) && rmdir(probe) == 0;
}

static bool make_folders(const char *folder)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s", folder);
    for (char *at = path + 1; *at; at++) {
        if (*at != '/') continue;
        *at = '\0';
        if (mkdir(path, 0700) != 0 && errno != EEXIST) return false;
        *at = '/';
    }
    return mkdir(path, 0700) == 0 || errno == EEXIST;
}

static bool read_all(int fd, char *bytes, size_t size_bytes)
{
    size_t done = 0;
    while (done < size_bytes) {
        ssize_t n = read(fd, bytes + done, size_bytes - done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        done += (size_t)n;
    }
    return true;
}

static bool write_all(int fd, const char *bytes, size_t size_bytes)
{
    size_t done = 0;
    while (done < size_bytes) {
        ssize_t n = write(fd, bytes + done, size_bytes - done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        done += (size_t)n;
    }
    return true;
}

bool moet_module_cache_has(const char *key)
{
    char folder[PATH_MAX], path[PATH_MAX + 80];
    struct stat info;
    if (!find_folder(folder)) return false;
    snprintf(path, sizeof path, "%s/%s.cubin", folder, key);
    return stat(path, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > TRAILER_BYTES;
}

bool moet_module_cache_read(const char *key, moet_cubin *cubin)
{
    char folder[PATH_MAX], path[PATH_MAX + 80], hash[MOET_SHA256_TEXT_SIZE];
    struct stat info;
    char *bytes = NULL;
    bool good = false;
    if (!find_folder(folder)) return false;
    snprintf(path, sizeof path, "%s/%s.cubin", folder, key);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a fifo must not hang us */
    if (fd < 0) return false;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size <= TRAILER_BYTES ||
        info.st_size > MAX_FILE_BYTES)
        goto done;
    bytes = malloc((size_t)info.st_size);
    if (!bytes || !read_all(fd, bytes, (size_t)info.st_size)) goto done;
    size_t cubin_bytes = (size_t)info.st_size - TRAILER_BYTES;
    const char *trailer = bytes + cubin_bytes;
    moet_sha256_text(bytes, cubin_bytes, hash);
    if (memcmp(trailer, key, HASH_TEXT_BYTES) != 0 || memcmp(trailer + HASH_TEXT_BYTES, hash, HASH_TEXT_BYTES) != 0)
        goto done;
    cubin->bytes = bytes;
    cubin->size_bytes = cubin_bytes;
    bytes = NULL;
    good = true;
done:
    free(bytes);
    close(fd);
    return good;
}

void moet_module_cache_write(const char *key, const moet_cubin *cubin)
{
    char folder[PATH_MAX], path[PATH_MAX + 80], temp[PATH_MAX + 80], hash[MOET_SHA256_TEXT_SIZE];
    if (!find_folder(folder) || !make_folders(folder)) return;
    snprintf(path, sizeof path, "%s/%s.cubin", folder, key);
    snprintf(temp, sizeof temp, "%s/%.16s.XXXXXX", folder, key);
    int fd = mkostemp(temp, O_CLOEXEC);
    if (fd < 0) return;
    moet_sha256_text(cubin->bytes, cubin->size_bytes, hash);
    bool written = write_all(fd, cubin->bytes, cubin->size_bytes) && write_all(fd, key, HASH_TEXT_BYTES) &&
                   write_all(fd, hash, HASH_TEXT_BYTES);
    if (close(fd) != 0) written = false;
    if (!written || rename(temp, path) != 0) unlink(temp);
}
