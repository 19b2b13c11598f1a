#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

moet_status moet_file_read(const char *path, size_t limit_bytes, char **bytes, size_t *size_bytes)
{
    moet_status status = MOET_OK;
    char *buffer = NULL;
    size_t used = 0;
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return moet_fail(errno == ENOENT ? MOET_NOT_FOUND : MOET_IO, "%s: %s", path, strerror(errno));
    if (fstat(fd, &info) != 0) {
        status = moet_fail(MOET_IO, "%s: %s", path, strerror(errno));
        goto done;
    }
    if (!S_ISREG(info.st_mode)) {
        status = moet_fail(MOET_IO, "%s: not a regular file", path);
        goto done;
    }
    if ((uint64_t)info.st_size > limit_bytes) {
        status = moet_fail(MOET_MALFORMED, "%s: %lld bytes, at most %zu are read", path, (long long)info.st_size,
                           limit_bytes);
        goto done;
    }
    buffer = malloc((size_t)info.st_size + 1);
    if (!buffer) {
        status = moet_fail(MOET_NO_MEMORY, "%s: no memory for %lld bytes", path, (long long)info.st_size);
        goto done;
    }
    while (used < (size_t)info.st_size) {
        ssize_t n = read(fd, buffer + used, (size_t)info.st_size - used);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            status = moet_fail(MOET_IO, "%s: %s", path, strerror(errno));
            goto done;
        }
        if (n == 0) break; /* it shrank: what is left is what there is */
        used += (size_t)n;
    }
    buffer[used] = '\0';
    *bytes = buffer;
    *size_bytes = used;
    buffer = NULL;
done:
    free(buffer);
    close(fd);
    return status;
}

moet_status moet_file_replace(const char *path, const void *bytes, size_t size_bytes)
{
    char temporary[PATH_MAX];
    /* The process id keeps two writers apart; the last rename wins. */
    if (snprintf(temporary, sizeof temporary, "%s.%ld.tmp", path, (long)getpid()) >= (int)sizeof temporary)
        return moet_fail(MOET_IO, "%s: the path is too long", path);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return moet_fail(MOET_IO, "%s: %s; name a file in a folder that can be written", path, strerror(errno));
    size_t used = 0;
    int error = 0;
    while (used < size_bytes && !error) {
        ssize_t n = write(fd, (const char *)bytes + used, size_bytes - used);
        if (n >= 0)
            used += (size_t)n;
        else if (errno != EINTR)
            error = errno;
    }
    if (!error && fsync(fd) != 0) error = errno;
    if (close(fd) != 0 && !error) error = errno;
    if (!error && rename(temporary, path) != 0) error = errno;
    if (error) {
        unlink(temporary);
        return moet_fail(MOET_IO, "%s: %s; nothing was changed", path, strerror(error));
    }
    return MOET_OK;
}
