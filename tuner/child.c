/* child.c: see child.h. */
#include "child.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../src/status.h"

extern char **environ;

static char *join(const char *folder, int length, const char *name)
{
    char *path = NULL;
    return asprintf(&path, "%.*s/%s", length, folder, name) < 0 ? NULL : path;
}

/* The path if it can be run, else NULL; frees what it does not return. */
static char *runnable(char *path)
{
    if (path != NULL && access(path, X_OK) == 0) {
        return path;
    }
    free(path);
    return NULL;
}

static char *find_in_path(const char *name)
{
    const char *rest = getenv("PATH");
    while (rest != NULL && *rest != '\0') {
        const int length = (int)strcspn(rest, ":");
        char *found = length > 0 ? runnable(join(rest, length, name)) : NULL;
        if (found != NULL) {
            return found;
        }
        rest += length + (rest[length] == ':');
    }
    return NULL;
}

static char *find_in_folders(const char *name, const char *const *folders)
{
    for (; folders != NULL && *folders != NULL; folders++) {
        char *pattern = join(*folders, (int)strlen(*folders), name), *found = NULL;
        glob_t paths = {0};
        if (pattern != NULL && glob(pattern, 0, NULL, &paths) == 0 && paths.gl_pathc > 0) {
            found = runnable(strdup(paths.gl_pathv[paths.gl_pathc - 1]));
        }
        globfree(&paths);
        free(pattern);
        if (found != NULL) {
            return found;
        }
    }
    return NULL;
}

moet_status moet_child_find(const char *name, const char *const *folders, const char *remedy, char **path)
{
    char *found = strchr(name, '/') != NULL ? runnable(strdup(name)) : find_in_path(name);
    if (found == NULL && strchr(name, '/') == NULL) {
        found = find_in_folders(name, folders);
    }
    if (found == NULL) {
        return moet_fail(MOET_NOT_FOUND, "%s is not here: %s", name, remedy);
    }
    *path = found;
    return MOET_OK;
}

/* 0, or an errno. */
static int redirect(posix_spawn_file_actions_t *actions, const char *out_path, const char *err_path)
{
    const int flags = O_WRONLY | O_CREAT | O_TRUNC;
    int error = posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (error == 0 && out_path != NULL) {
        error = posix_spawn_file_actions_addopen(actions, STDOUT_FILENO, out_path, flags, 0666);
    }
    if (error == 0 && err_path != NULL) {
        const bool is_one = out_path != NULL && strcmp(out_path, err_path) == 0;
        error = is_one ? posix_spawn_file_actions_adddup2(actions, STDOUT_FILENO, STDERR_FILENO)
                       : posix_spawn_file_actions_addopen(actions, STDERR_FILENO, err_path, flags, 0666);
    }
    return error;
}

moet_status moet_child_run(const char *const *argv, const char *out_path, const char *err_path, int *exit_code)
{
    posix_spawn_file_actions_t actions;
    pid_t pid = 0;
    int state = 0, error = posix_spawn_file_actions_init(&actions);
    if (error != 0) {
        return moet_fail(MOET_NO_MEMORY, "%s: %s", argv[0], strerror(error));
    }
    fflush(NULL); /* what we wrote stands before what it writes */
    error = redirect(&actions, out_path, err_path);
    if (error == 0) {
        error = posix_spawn(&pid, argv[0], &actions, NULL, (char *const *)argv, environ);
    }
    posix_spawn_file_actions_destroy(&actions);
    if (error != 0) {
        return moet_fail(MOET_IO, "%s cannot be run: %s", argv[0], strerror(error));
    }
    while (waitpid(pid, &state, 0) < 0) {
        if (errno != EINTR) {
            return moet_fail(MOET_IO, "%s: its end could not be waited for: %s", argv[0], strerror(errno));
        }
    }
    *exit_code = WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state);
    return MOET_OK;
}

moet_status moet_child_folder_make(char *path)
{
    const char *base = getenv("TMPDIR");
    if (snprintf(path, MOET_CHILD_FOLDER_SIZE, "%s/moe-tune-XXXXXX", base != NULL && *base != '\0' ? base : "/tmp") >=
        MOET_CHILD_FOLDER_SIZE) {
        return moet_fail(MOET_INVALID, "TMPDIR: its path is too long");
    }
    return mkdtemp(path) != NULL
               ? MOET_OK
               : moet_fail(MOET_IO, "no temporary folder '%s': %s; TMPDIR names another place", path, strerror(errno));
}

void moet_child_folder_remove(const char *path)
{
    DIR *folder = opendir(path);
    if (folder == NULL) {
        return;
    }
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        unlinkat(dirfd(folder), entry->d_name, 0); /* "." and ".." are no files */
    }
    closedir(folder);
    rmdir(path);
}
