#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIRST_BYTES 65536
#define MOST_LINKS 40 /* in a row: as Linux itself */

/* ---- reading ---- */

/* Reads fd to its end into *bytes, grown as needed from room_bytes on; *used may be limit_bytes + 1, which is too much.
 */
static moet_status read_to_end(int fd, const char *path, size_t limit_bytes, size_t room_bytes, char **bytes,
                               size_t *used)
{
    for (;;) {
        if (!*bytes || *used == room_bytes) {
            if (*bytes) room_bytes = room_bytes <= limit_bytes / 2 ? 2 * room_bytes : limit_bytes + 1;
            char *grown = realloc(*bytes, room_bytes + 1); /* and a NUL */
            if (!grown) return moet_fail(MOET_NO_MEMORY, "%s: no memory for %zu bytes", path, room_bytes);
            *bytes = grown;
        }
        ssize_t n = read(fd, *bytes + *used, room_bytes - *used);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return moet_fail(MOET_IO, "%s: %s", path, strerror(errno));
        *used += (size_t)n;
        if (n == 0 || *used > limit_bytes) return MOET_OK;
    }
}

moet_status moet_file_read_open(int fd, const char *path, size_t limit_bytes, char **bytes, size_t *size_bytes)
{
    char *buffer = NULL;
    size_t used = 0;
    struct stat info;
    if (fstat(fd, &info) != 0) return moet_fail(MOET_IO, "%s: %s", path, strerror(errno));
    if (S_ISDIR(info.st_mode) || S_ISBLK(info.st_mode)) return moet_fail(MOET_IO, "%s: not a regular file", path);
    const uint64_t known = S_ISREG(info.st_mode) ? (uint64_t)info.st_size : 0;
    if (known > limit_bytes)
        return moet_fail(MOET_MALFORMED, "%s: %lld bytes, at most %zu are read", path, (long long)info.st_size,
                         limit_bytes);
    /* One byte more shows the end; of a pipe nothing is known. */
    const size_t room_bytes = known > 0 ? (size_t)known + 1 : limit_bytes < FIRST_BYTES ? limit_bytes + 1 : FIRST_BYTES;
    moet_status status = read_to_end(fd, path, limit_bytes, room_bytes, &buffer, &used);
    if (status == MOET_OK && used > limit_bytes)
        status = moet_fail(MOET_MALFORMED, "%s: more bytes than the %zu that are read at most", path, limit_bytes);
    if (status != MOET_OK) {
        free(buffer);
        return status;
    }
    buffer[used] = '\0';
    *bytes = buffer;
    *size_bytes = used;
    return MOET_OK;
}

static moet_status read_path(const char *path, bool is_regular, size_t limit_bytes, char **bytes, size_t *size_bytes)
{
    struct stat info;
    /* Opening a FIFO waits for its writer. */
    const int fd = open(path, O_RDONLY | O_CLOEXEC | (is_regular ? O_NONBLOCK : 0));
    if (fd < 0) return moet_fail(errno == ENOENT ? MOET_NOT_FOUND : MOET_IO, "%s: %s", path, strerror(errno));
    moet_status status = is_regular && fstat(fd, &info) == 0 && !S_ISREG(info.st_mode)
                             ? moet_fail(MOET_IO, "%s: not a regular file", path)
                             : moet_file_read_open(fd, path, limit_bytes, bytes, size_bytes);
    close(fd);
    return status;
}

moet_status moet_file_read(const char *path, size_t limit_bytes, char **bytes, size_t *size_bytes)
{
    return read_path(path, true, limit_bytes, bytes, size_bytes);
}

moet_status moet_file_read_any(const char *path, size_t limit_bytes, char **bytes, size_t *size_bytes)
{
    return read_path(path, false, limit_bytes, bytes, size_bytes);
}

/* ---- writing ---- */

/* What is at a path, links followed. */
typedef struct file_target {
    char path[PATH_MAX];
    bool is_new, is_in_place; /* in_place: a device, a FIFO or a socket, or open as fd */
    int fd;                   /* -1: none */
    mode_t mode;              /* of what is there, and whose it is */
    uid_t owner;
    gid_t group;
} file_target;

/* Replaces the name of a link by what it points to, which need not exist. */
static moet_status follow(const char *path, char points_to[PATH_MAX], char target[PATH_MAX])
{
    const char *slash = strrchr(target, '/');
    const int folder = points_to[0] == '/' || !slash ? 0 : (int)(slash + 1 - target);
    char joined[PATH_MAX];
    if (snprintf(joined, sizeof joined, "%.*s%s", folder, target, points_to) >= (int)sizeof joined)
        return moet_fail(MOET_IO, "%s: points to a path that is too long", path);
    memcpy(target, joined, strlen(joined) + 1);
    return MOET_OK;
}

/* The N of "/proc/self/fd/N" or "/dev/fd/N", which /dev/stdout points to: what is open there is written to from where
 * it is; -1: another path. */
static int fd_of(const char *path)
{
    static const char *const folders[] = {"/proc/self/fd/", "/dev/fd/"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        const size_t length = strlen(folders[i]),
                     digits = strspn(path + (strlen(path) < length ? 0 : length), "0123456789");
        if (strncmp(path, folders[i], length) == 0 && digits > 0 && digits < 7 && !path[length + digits])
            return atoi(path + length);
    }
    return -1;
}

/* A device must stay one, and a link must stay a link, whose target is replaced. */
static moet_status find_target(const char *path, file_target *target)
{
    char points_to[PATH_MAX];
    struct stat info;
    *target = (file_target){.fd = -1};
    if (!*path) return moet_fail(MOET_IO, "'': the name of a file is expected");
    target->is_new = stat(path, &info) != 0;
    if (target->is_new && errno != ENOENT)
        return moet_fail(MOET_IO, "%s: %s; nothing was changed", path, strerror(errno));
    if (!target->is_new && S_ISDIR(info.st_mode))
        return moet_fail(MOET_IO, "%s: %s; nothing was changed", path, strerror(EISDIR));
    if (snprintf(target->path, sizeof target->path, "%s", path) >= (int)sizeof target->path)
        return moet_fail(MOET_IO, "%s: the path is too long", path);
    target->mode = target->is_new ? 0 : info.st_mode & 0777;
    target->owner = target->is_new ? (uid_t)-1 : info.st_uid;
    target->group = target->is_new ? (gid_t)-1 : info.st_gid;
    target->is_in_place = !target->is_new && !S_ISREG(info.st_mode);
    for (int32_t i = 0; i < MOST_LINKS && !target->is_in_place; i++) {
        target->fd = fd_of(target->path);
        target->is_in_place = target->fd >= 0;
        if (target->is_in_place) break;
        const ssize_t n = readlink(target->path, points_to, sizeof points_to - 1);
        if (n < 0) break; /* no link, or not there yet */
        points_to[n] = '\0';
        MOET_TRY(follow(path, points_to, target->path));
    }
    return MOET_OK;
}

/* 0 or an errno. */
static int write_bytes(int fd, const void *bytes, size_t size_bytes)
{
    size_t used = 0;
    while (used < size_bytes) {
        ssize_t n = write(fd, (const char *)bytes + used, size_bytes - used);
        if (n < 0 && errno != EINTR) return errno;
        if (n >= 0) used += (size_t)n;
    }
    return 0;
}

static moet_status write_in_place(const char *path, int open_fd, const void *bytes, size_t size_bytes)
{
    const int fd = open_fd >= 0 ? open_fd : open(path, O_WRONLY | O_NOCTTY | O_CLOEXEC);
    if (fd < 0) return moet_fail(MOET_IO, "%s: %s", path, strerror(errno));
    int error = write_bytes(fd, bytes, size_bytes);
    if (open_fd < 0 && close(fd) != 0 && !error) error = errno;
    return error ? moet_fail(MOET_IO, "%s: %s", path, strerror(error)) : MOET_OK;
}

static moet_status write_error(const char *path, int error)
{
    return moet_fail(MOET_IO, "%s: %s; name a file in a folder that can be written", path, strerror(error));
}

moet_status moet_file_check(const char *path)
{
    file_target target;
    MOET_TRY(find_target(path, &target));
    if (!target.is_in_place) {
        char *slash = strrchr(target.path, '/');
        if (!slash) snprintf(target.path, sizeof target.path, ".");
        if (slash) slash[slash == target.path] = '\0'; /* the root's own slash stays */
    }
    return access(target.path, target.is_in_place ? W_OK : W_OK | X_OK) == 0 ? MOET_OK : write_error(path, errno);
}

moet_status moet_file_replace(const char *path, const void *bytes, size_t size_bytes)
{
    char temporary[PATH_MAX];
    file_target target;
    MOET_TRY(find_target(path, &target));
    if (target.is_in_place) return write_in_place(path, target.fd, bytes, size_bytes);
    /* The process id keeps two writers apart; the last rename wins. */
    if (snprintf(temporary, sizeof temporary, "%s.%ld.tmp", target.path, (long)getpid()) >= (int)sizeof temporary)
        return moet_fail(MOET_IO, "%s: the path is too long", path);
    /* Until it has the mode of the old one nobody else reads it. What is there by this name is an interrupted writer's,
     * or was put there by somebody else: it is neither followed nor kept. */
    const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode = target.is_new ? 0666 : 0600;
    int fd = open(temporary, flags, mode);
    if (fd < 0 && errno == EEXIST && unlink(temporary) == 0) fd = open(temporary, flags, mode);
    if (fd < 0) return write_error(path, errno);
    int error = write_bytes(fd, bytes, size_bytes);
    const int is_kept = target.is_new ? 0 : fchown(fd, target.owner, target.group);
    (void)is_kept; /* who may not give it away owns it now */
    if (!error && !target.is_new && fchmod(fd, target.mode) != 0) error = errno;
    if (!error && fsync(fd) != 0) error = errno;
    if (close(fd) != 0 && !error) error = errno;
    if (!error && rename(temporary, target.path) != 0) error = errno;
    if (error) {
        unlink(temporary);
        return moet_fail(MOET_IO, "%s: %s; nothing was changed", path, strerror(error));
    }
    return MOET_OK;
}
