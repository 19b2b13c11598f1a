/* The folder of a table: what is in it, and how a new table takes the old one's place. */
#include <cjson/cJSON.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../src/file.h"
#include "emit.h"

#define TABLE_NAME "table.json"
#define TABLE_LIMIT_BYTES ((size_t)256 << 20)
#define CUBIN_LIMIT_BYTES ((size_t)256 << 20)
enum { hash_digits = MOET_SHA256_TEXT_SIZE - 1 };

static moet_status make_path(const char *dir, const char *name, char path[PATH_MAX])
{
    if (snprintf(path, PATH_MAX, "%s/%s", dir, name) >= PATH_MAX)
        return moet_fail(MOET_INVALID, "%.100s...: the path is too long", dir);
    return MOET_OK;
}

/* ---- reading a table's text ---- */

static bool is_hash(const char *text) { return strspn(text, "0123456789abcdef") == hash_digits && !text[hash_digits]; }

/* docs/table-format.md, "Hash". */
static bool hash_matches(const char *text, size_t size_bytes, const char *hash)
{
    char actual[MOET_SHA256_TEXT_SIZE];
    const char *name = strstr(text, "\"hash\""), *digits = name ? strstr(name, hash) : NULL;
    char *blank = digits ? malloc(size_bytes) : NULL;
    if (!blank) return false;
    size_t before = (size_t)(digits - text);
    memcpy(blank, text, before);
    memcpy(blank + before, digits + hash_digits, size_bytes - before - hash_digits);
    moet_sha256_text(blank, size_bytes - hash_digits, actual);
    free(blank);
    return strcmp(actual, hash) == 0;
}

static moet_status check_head(const char *path, const char *text, size_t size_bytes, const cJSON *table)
{
    const char *format = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(table, "format"));
    const cJSON *version = cJSON_GetObjectItemCaseSensitive(table, "version");
    const char *hash = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(table, "hash"));
    if (!format || strcmp(format, "moe-tune table") != 0 || !cJSON_IsNumber(version) || !hash || !is_hash(hash))
        return moet_fail(MOET_MALFORMED, "%s: not a moe-tune table; name a folder that moe-tune emit wrote", path);
    if (!(version->valuedouble >= 1 && version->valuedouble <= MOET_TABLE_FORMAT_VERSION))
        return moet_fail(MOET_MISMATCH,
                         "%s: format version %d or older expected, %.0f found; emit the table with this moe-tune", path,
                         MOET_TABLE_FORMAT_VERSION, version->valuedouble);
    if (!hash_matches(text, size_bytes, hash))
        return moet_fail(MOET_MISMATCH,
                         "%s: its content does not have its hash: changed by hand or damaged; emit the table "
                         "again",
                         path);
    return MOET_OK;
}

moet_status moet_emit_read(const char *dir, cJSON **table)
{
    char path[PATH_MAX], *text = NULL;
    size_t size_bytes = 0;
    MOET_TRY(make_path(dir, TABLE_NAME, path));
    moet_status status = moet_file_read(path, TABLE_LIMIT_BYTES, &text, &size_bytes);
    if (status == MOET_NOT_FOUND)
        return moet_fail(status, "%s: no such file; name a folder that moe-tune emit wrote", path);
    if (status != MOET_OK) return status;
    cJSON *root = cJSON_ParseWithLength(text, size_bytes);
    status = root ? check_head(path, text, size_bytes, root)
                  : moet_fail(MOET_MALFORMED, "%s: not a moe-tune table; name a folder that moe-tune emit wrote", path);
    free(text);
    if (status != MOET_OK) {
        cJSON_Delete(root);
        return status;
    }
    *table = root;
    return MOET_OK;
}

/* ---- looking ---- */

/* Whose file a name in the folder is. */
typedef enum file_kind { FILE_OTHER, FILE_TABLE, FILE_CUBIN, FILE_TEMPORARY } file_kind;

static file_kind classify(const char *name)
{
    bool table = strncmp(name, TABLE_NAME, sizeof TABLE_NAME - 1) == 0;
    bool cubin = strspn(name, "0123456789abcdef") == hash_digits && strncmp(name + hash_digits, ".cubin", 6) == 0;
    if (!table && !cubin) return FILE_OTHER;
    const char *rest = name + (table ? sizeof TABLE_NAME - 1 : hash_digits + 6);
    if (!*rest) return table ? FILE_TABLE : FILE_CUBIN;
    /* ".<process id>.tmp": moet_file_replace */
    size_t digits = *rest == '.' ? strspn(rest + 1, "0123456789") : 0;
    return digits && strcmp(rest + 1 + digits, ".tmp") == 0 ? FILE_TEMPORARY : FILE_OTHER;
}

/* Counts of each kind in an open folder. */
static void count_files(DIR *stream, int32_t counts[4])
{
    for (const struct dirent *entry; (entry = readdir(stream));) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) counts[classify(entry->d_name)]++;
    }
}

static void copy_hash(const cJSON *table, const char *name, char hash[MOET_SHA256_TEXT_SIZE])
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(table, name));
    snprintf(hash, MOET_SHA256_TEXT_SIZE, "%s", text ? text : "");
}

moet_status moet_emit_folder_look(const char *dir, moet_emit_folder *folder)
{
    moet_emit_folder result = {0};
    int32_t counts[4] = {0};
    cJSON *table = NULL;
    if (!*dir) return moet_fail(MOET_INVALID, "table folder '': a name is expected (--out)");
    DIR *stream = opendir(dir);
    if (!stream && errno == ENOENT) {
        *folder = result;
        return MOET_OK;
    }
    if (!stream && errno == ENOTDIR)
        return moet_fail(MOET_INVALID, "table folder '%s': is a file; name a folder (--out)", dir);
    if (!stream)
        return moet_fail(MOET_IO, "table folder '%s': %s; name one that can be read and written (--out)", dir,
                         strerror(errno));
    count_files(stream, counts);
    closedir(stream);
    if (counts[FILE_TABLE]) {
        if (moet_emit_read(dir, &table) != MOET_OK)
            return moet_fail(MOET_INVALID,
                             "table folder '%s': holds a table that cannot be read (%.400s); name another "
                             "folder (--out) or remove it",
                             dir, moet_last_error());
        copy_hash(table, "hash", result.hash);
        copy_hash(table, "parent", result.parent);
        cJSON_Delete(table);
    } else if (counts[FILE_OTHER]) {
        return moet_fail(MOET_INVALID, "table folder '%s': holds other files and no table; name another folder (--out)",
                         dir);
    }
    *folder = result;
    return MOET_OK;
}

/* ---- writing ---- */

static moet_status write_error(const char *dir)
{
    if (errno == ENOSPC || errno == EDQUOT)
        return moet_fail(MOET_IO, "table folder '%s': disk full; free space and run the same command again", dir);
    return moet_fail(MOET_IO, "table folder '%s': %s; name one that can be written (--out)", dir, strerror(errno));
}

static moet_status sync_folder(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return write_error(dir);
    /* Some file systems have no fsync of folders; the rename is atomic all the same. */
    moet_status status = fsync(fd) == 0 || errno == EINVAL ? MOET_OK : write_error(dir);
    close(fd);
    return status;
}

static bool file_has_hash(const char *path, const char *sha256)
{
    char *bytes = NULL, actual[MOET_SHA256_TEXT_SIZE];
    size_t size_bytes = 0;
    if (moet_file_read(path, CUBIN_LIMIT_BYTES, &bytes, &size_bytes) != MOET_OK) return false;
    moet_sha256_text(bytes, size_bytes, actual);
    free(bytes);
    return strcmp(actual, sha256) == 0;
}

static moet_status write_cubin(moet_store *store, const char *dir, const char *sha256)
{
    char name[MOET_SHA256_TEXT_SIZE + 8], path[PATH_MAX];
    moet_cubin cubin = {0};
    snprintf(name, sizeof name, "%s.cubin", sha256);
    MOET_TRY(make_path(dir, name, path));
    if (file_has_hash(path, sha256)) return MOET_OK;
    MOET_TRY(moet_store_get_cubin(store, sha256, &cubin));
    moet_status status = moet_file_replace(path, cubin.bytes, cubin.size_bytes);
    moet_cubin_release(&cubin);
    return status;
}

static int compare_hash(const void *key, const void *element)
{
    return strncmp(key, *(const char *const *)element, hash_digits);
}

/* Kernels that no table names any more, and what killed emits left. Failing to remove them harms nobody. */
static void remove_stale(const char *dir, const char *const *cubins, int32_t cubin_count)
{
    DIR *stream = opendir(dir);
    if (!stream) return;
    for (const struct dirent *entry; (entry = readdir(stream));) {
        const char *name = entry->d_name;
        file_kind kind = classify(name);
        bool stale = kind == FILE_CUBIN &&
                     (cubin_count == 0 || !bsearch(name, cubins, (size_t)cubin_count, sizeof *cubins, compare_hash));
        if (kind == FILE_TEMPORARY) {
            const char *digits = name + strlen(name) - strlen(".tmp");
            while (digits[-1] != '.') digits--;
            stale = kill((pid_t)strtol(digits, NULL, 10), 0) != 0 && errno == ESRCH;
        }
        if (stale) unlinkat(dirfd(stream), name, 0);
    }
    closedir(stream);
}

static moet_status write_all(moet_store *store, const char *dir, const char *replaced, const char *text,
                             const char *const *cubins, int32_t cubin_count)
{
    char path[PATH_MAX];
    moet_emit_folder folder;
    MOET_TRY(make_path(dir, TABLE_NAME, path));
    MOET_TRY(moet_emit_folder_look(dir, &folder));
    if (strcmp(folder.hash, replaced) != 0)
        return moet_fail(MOET_BUSY, "table folder '%s': another emit replaced its table meanwhile; run the command again",
                         dir);
    for (int32_t i = 0; i < cubin_count; i++) MOET_TRY(write_cubin(store, dir, cubins[i]));
    MOET_TRY(sync_folder(dir));
    if (text) {
        MOET_TRY(moet_file_replace(path, text, strlen(text)));
        MOET_TRY(sync_folder(dir));
    }
    remove_stale(dir, cubins, cubin_count);
    return MOET_OK;
}

moet_status moet_emit_folder_write(moet_store *store, const char *dir, const char *replaced, const char *text,
                                   const char *const *cubins, int32_t cubin_count)
{
    if (mkdir(dir, 0777) != 0 && errno != EEXIST) return write_error(dir);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return write_error(dir);
    /* Where a file system has no locks, writers are taken not to meet. */
    while (flock(fd, LOCK_EX) != 0 && errno == EINTR) continue;
    moet_status status = write_all(store, dir, replaced, text, cubins, cubin_count);
    close(fd); /* unlocks */
    return status;
}
