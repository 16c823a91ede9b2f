/* Calls of the C library that fail on purpose: forks.py preloads this, and says by fail_call which.

   Of files, calls are counted and fail only inside one folder; of memory, only blocks that a tensor may need.
   Python and torch call these by their names, so all that they do comes through here. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OPEN, READ, WRITE, FSYNC, RENAME, MKDIR, UNLINK, TRUNCATE, THREAD, MEMORY };

static const size_t LEAST = 8192; /* bytes */
static struct { const char *folder; int function, error, forever; long number, *called; } plan;

/* From now on, call `number` (from 1) of a function fails, or all from it on. `called` counts them. */
void fail_call(const char *folder, int function, int error, int forever, long number, long *called) {
    plan.folder = strdup(folder), plan.function = function, plan.error = error;
    plan.forever = forever, plan.number = number, plan.called = called;
}

static int fails(int function) {
    long now;
    if (!plan.called || plan.function != function)
        return 0;
    now = __atomic_add_fetch(plan.called, 1, __ATOMIC_SEQ_CST);
    if (now < plan.number || (now > plan.number && !plan.forever))
        return 0;
    errno = plan.error;
    return 1;
}

static int is_inside(const char *path) {
    size_t length = strlen(plan.folder);
    return !strncmp(path, plan.folder, length) && (path[length] == '/' || !path[length]);
}

static int open_inside(int file) {
    char link[64], path[4096];
    ssize_t length;
    if (!plan.called)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    return is_inside(path);
}

static int inside(int folder, const char *path) {
    return plan.called && (*path == '/' || folder == AT_FDCWD ? is_inside(path) : open_inside(folder));
}

/* Whether a library has called, to which one returns there. */
static int called_by(const char *library, const void *there) {
    Dl_info found;
    return plan.called && dladdr(there, &found) && strstr(found.dli_fname, library);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAILS(inside, function, value) if ((inside) && fails(function)) return value

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    }
#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        MODE(flags) \
        FAILS(inside(AT_FDCWD, path), OPEN, -1); \
        return REAL(name)(path, flags, mode); \
    }
#define OPENS_AT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        MODE(flags) \
        FAILS(inside(folder, path), OPEN, -1); \
        return REAL(name)(folder, path, flags, mode); \
    }
OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)

DIR *opendir(const char *path) {
    FAILS(inside(AT_FDCWD, path), OPEN, NULL);
    return REAL(opendir)(path);
}

ssize_t read(int file, void *bytes, size_t count) {
    FAILS(open_inside(file), READ, -1);
    return REAL(read)(file, bytes, count);
}

ssize_t write(int file, const void *bytes, size_t count) {
    if (open_inside(file) && fails(WRITE)) {
        if (REAL(write)(file, bytes, count / 2) >= 0) /* as where a disk becomes full */
            errno = plan.error;
        return -1;
    }
    return REAL(write)(file, bytes, count);
}

int fsync(int file) { /* nobody cuts the power here */
    FAILS(open_inside(file), FSYNC, -1);
    return 0;
}

int rename(const char *old, const char *new) {
    FAILS(inside(AT_FDCWD, new), RENAME, -1);
    return REAL(rename)(old, new);
}

int mkdir(const char *path, mode_t mode) {
    FAILS(inside(AT_FDCWD, path), MKDIR, -1);
    return REAL(mkdir)(path, mode);
}

int symlink(const char *target, const char *path) {
    FAILS(inside(AT_FDCWD, path), MKDIR, -1);
    return REAL(symlink)(target, path);
}

int unlink(const char *path) {
    FAILS(inside(AT_FDCWD, path), UNLINK, -1);
    return REAL(unlink)(path);
}

int unlinkat(int folder, const char *path, int flags) {
    FAILS(inside(folder, path), UNLINK, -1);
    return REAL(unlinkat)(folder, path, flags);
}

int rmdir(const char *path) {
    FAILS(inside(AT_FDCWD, path), UNLINK, -1);
    return REAL(rmdir)(path);
}

int ftruncate(int file, off_t length) {
    FAILS(open_inside(file), TRUNCATE, -1);
    return REAL(ftruncate)(file, length);
}

int ftruncate64(int file, off64_t length) {
    FAILS(open_inside(file), TRUNCATE, -1);
    return REAL(ftruncate64)(file, length);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*start)(void *), void *argument) {
    FAILS(!called_by("libstdc++", __builtin_return_address(0)), THREAD, EAGAIN); /* gloo aborts without one */
    return REAL(pthread_create)(thread, how, start, argument);
}

int posix_memalign(void **block, size_t alignment, size_t size) {
    int tensor = size >= LEAST && called_by("libc10", __builtin_return_address(0)); /* others do not look */
    FAILS(tensor, MEMORY, ENOMEM);
    return REAL(posix_memalign)(block, alignment, size);
}
