/* Stands between a process and the files below one folder (LD_PRELOAD): writes down every change in one order, and
 * lets calls fail. Built and driven by `tests/powercut/mod.rs`, which reads the journal and writes the rules; the two
 * layouts below are what they have in common. Nothing here decides what a disk holds after a power cut.
 *
 *   POWERCUT_BELOW    the folder, absolute
 *   POWERCUT_JOURNAL  file to append the journal to; it lies outside the folder
 *   POWERCUT_RULES    file with RULES rules, mapped: they may change while the process runs
 *
 * What is mapped and written through memory is not seen; of SQLite that is only the `-shm`, which is no data. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

/* --- The journal: a header, then `path_length` bytes of path and `data_length` of data. --- */

enum kind { CREATE = 1, SEEN, WRITE, LENGTH, SYNC, SYNC_FOLDER, SYNC_ALL, MKDIR, RENAME, UNLINK, RMDIR, LINK };

struct record {
    uint32_t kind;
    uint32_t file;        /* which file, where it is of one: numbers are never used twice */
    uint64_t nanoseconds; /* of the clock, at the end of the call */
    uint64_t at;          /* WRITE: offset. LENGTH: the new one. SYNC…: journal bytes when the call began */
    uint32_t path_length; /* below the folder */
    uint32_t data_length; /* WRITE: payload. RENAME, LINK: the new path */
};

/* --- The rules: the `skip + 1`th to `skip + count`th matching call waits, and fails where `error` is set. A write with
 * the error HALF writes half of what it is given, as a disk does that has just become full. --- */

#define HALF -1

enum call { ON_OPEN = 1, ON_WRITE = 2, ON_TRUNCATE = 4, ON_FSYNC = 8, ON_FDATASYNC = 16, ON_MKDIR = 32, ON_RENAME = 64,
            ON_UNLINK = 128, ON_RMDIR = 256, ON_READ = 512 };

struct rule {
    uint32_t calls; /* which calls; 0: no rule */
    int32_t error;
    uint32_t delay_ms;
    uint32_t skip;
    uint32_t count;
    uint32_t hits;  /* matching calls so far */
    char path[104]; /* a piece of the path */
};

#define RULES 4

static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;
static char below[4096];
static size_t below_length;
static int journal = -1;
static uint64_t journal_length;
static struct rule *rules;
static dev_t device;

/* Inode number to file number; inodes are used again, so the newest entry counts. */
static struct { uint64_t inode; uint32_t file; } *known;
static uint32_t known_count, known_room, files;

__attribute__((constructor)) static void begin(void) {
    const char *folder = getenv("POWERCUT_BELOW"), *to = getenv("POWERCUT_JOURNAL"), *from = getenv("POWERCUT_RULES");
    struct stat found;
    if (!folder || stat(folder, &found) != 0) return;
    device = found.st_dev;
    snprintf(below, sizeof below, "%s/", folder);
    below_length = strlen(below);
    if (to) journal = syscall(SYS_openat, AT_FDCWD, to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (from) {
        int file = syscall(SYS_openat, AT_FDCWD, from, O_RDWR | O_CLOEXEC, 0);
        void *mapped = mmap(NULL, RULES * sizeof *rules, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (mapped != MAP_FAILED) rules = mapped;
    }
    unsetenv("LD_PRELOAD"); /* Children have no journal. */
}

#define REAL(name) ({ static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name); real; })

/* --- Where a call goes. --- */

/* The path below the folder, or NULL for one elsewhere. */
static const char *inside(const char *path) {
    return below_length && strncmp(path, below, below_length) == 0 ? path + below_length : NULL;
}

static const char *inside_at(int folder, const char *path, char *room) {
    if (!below_length || !path) return NULL;
    if (path[0] == '/') return inside(path);
    char link[64];
    if (folder == AT_FDCWD) strcpy(link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    ssize_t length = readlink(link, room, 4096);
    if (length <= 0 || length + strlen(path) + 2 > 8192) return NULL;
    room[length] = '/';
    strcpy(room + length + 1, path);
    return inside(room);
}

static const char *inside_open(int file, char *room) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, room, 8191);
    if (length <= 0) return NULL;
    room[length] = 0;
    if ((size_t)length + 1 == below_length && strncmp(room, below, length) == 0) return "";
    return inside(room);
}

/* --- Rules. --- */

static int wanted(uint32_t call) {
    for (int at = 0; rules && at < RULES; at++)
        if (rules[at].calls & call) return 1;
    return 0;
}

/* Waits where a rule says so; 0, or the error with which the call fails. */
static int refused(uint32_t call, const char *path) {
    for (int at = 0; path && rules && at < RULES; at++) {
        struct rule *rule = &rules[at];
        if (!(__atomic_load_n(&rule->calls, __ATOMIC_ACQUIRE) & call) || !strstr(path, rule->path)) continue;
        uint32_t hit = __atomic_fetch_add(&rule->hits, 1, __ATOMIC_ACQ_REL);
        if (hit < rule->skip || hit - rule->skip >= rule->count) continue;
        if (rule->delay_ms) usleep(rule->delay_ms * 1000);
        if (rule->error) return rule->error;
    }
    return 0;
}

static int refused_open(uint32_t call, int file) {
    char room[8192];
    return wanted(call) ? refused(call, inside_open(file, room)) : 0;
}

#define FAIL_IF(refusal) do { int error = (refusal); if (error) { errno = error; return -1; } } while (0)

/* --- The journal. `order` is held from before a change to behind its record. --- */

static void lock(void) { pthread_mutex_lock(&order); }
static void unlock(void) { pthread_mutex_unlock(&order); }

static void put(const struct iovec *slices, int count, size_t total) {
    struct iovec rest[count];
    memcpy(rest, slices, count * sizeof *rest);
    journal_length += total;
    for (int at = 0; at < count;) {
        ssize_t done = syscall(SYS_writev, journal, rest + at, count - at > 1024 ? 1024 : count - at);
        if (done < 0) abort();
        while (at < count && (size_t)done >= rest[at].iov_len) done -= rest[at++].iov_len;
        if (at < count) rest[at].iov_base = (char *)rest[at].iov_base + done, rest[at].iov_len -= done;
    }
}

static void write_down(enum kind kind, uint32_t file, uint64_t at, const char *path, const struct iovec *data, int count) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    size_t length = 0;
    for (int slice = 0; slice < count; slice++) length += data[slice].iov_len;
    struct record record = { kind, file, now.tv_sec * 1000000000ull + now.tv_nsec, at, path ? strlen(path) : 0, length };
    struct iovec slices[count + 2];
    slices[0] = (struct iovec){ &record, sizeof record };
    slices[1] = (struct iovec){ (void *)path, record.path_length };
    if (count) memcpy(slices + 2, data, count * sizeof *data);
    put(slices, count + 2, sizeof record + record.path_length + length);
}

static void write_down_two(enum kind kind, const char *from, const char *to) {
    struct iovec data = { (void *)to, strlen(to) };
    write_down(kind, 0, 0, from, &data, 1);
}

static uint32_t new_file(uint64_t inode) {
    uint32_t at = 0;
    while (at < known_count && known[at].inode != inode) at++;
    if (at == known_count) {
        if (known_count == known_room) known = realloc(known, (known_room = known_room * 2 + 64) * sizeof *known);
        known[known_count++].inode = inode;
    }
    return known[at].file = ++files;
}

/* The number of an open file of ours, or 0. */
static uint32_t number(int file) {
    struct stat found;
    if (journal < 0 || fstat(file, &found) != 0 || found.st_dev != device || !S_ISREG(found.st_mode)) return 0;
    for (uint32_t at = 0; at < known_count; at++)
        if (known[at].inode == found.st_ino) return known[at].file;
    return 0;
}

/* --- Opening. --- */

static int opened(int folder, const char *path, int flags, mode_t mode) {
    char room[8192];
    const char *in = inside_at(folder, path, room);
    if (!in) return REAL(openat)(folder, path, flags, mode);
    FAIL_IF(refused(ON_OPEN, in));
    if (journal < 0) return REAL(openat)(folder, path, flags, mode);
    lock();
    struct stat found;
    int was_there = fstatat(folder, path, &found, 0) == 0;
    int file = REAL(openat)(folder, path, flags, mode);
    int error = errno;
    if (file >= 0 && fstat(file, &found) == 0 && S_ISREG(found.st_mode)) {
        if (!was_there) write_down(CREATE, new_file(found.st_ino), 0, in, NULL, 0);
        else if (!number(file)) write_down(SEEN, new_file(found.st_ino), 0, in, NULL, 0);
        if (was_there && flags & O_TRUNC) write_down(LENGTH, number(file), 0, NULL, NULL, 0);
    }
    unlock();
    errno = error;
    return file;
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list list; va_start(list, flags); mode = va_arg(list, mode_t); va_end(list); }

EXPORT int open(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
EXPORT int open64(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
EXPORT int openat(int folder, const char *path, int flags, ...) { MODE(flags) return opened(folder, path, flags, mode); }
EXPORT int openat64(int folder, const char *path, int flags, ...) { MODE(flags) return opened(folder, path, flags, mode); }
EXPORT int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
EXPORT int creat64(const char *path, mode_t mode) { return creat(path, mode); }

/* --- Contents. `at` < 0: where the file stands. --- */

static ssize_t written(int file, const struct iovec *slices, int count, off_t at) {
    int refusal = refused_open(ON_WRITE, file);
    struct iovec half;
    if (refusal == HALF) {
        half = (struct iovec){ slices[0].iov_base, (slices[0].iov_len + 1) / 2 };
        slices = &half, count = 1;
    } else {
        FAIL_IF(refusal);
    }
    if (!below_length || journal < 0)
        return at < 0 ? REAL(writev)(file, slices, count) : REAL(pwritev)(file, slices, count, at);
    lock();
    uint32_t which = number(file);
    ssize_t done = at < 0 ? REAL(writev)(file, slices, count) : REAL(pwritev)(file, slices, count, at);
    int error = errno;
    if (which && done > 0) {
        struct iovec taken[count];
        size_t rest = done;
        int used = 0;
        for (; used < count && rest > 0; used++) {
            taken[used] = slices[used];
            if (taken[used].iov_len > rest) taken[used].iov_len = rest;
            rest -= taken[used].iov_len;
        }
        uint64_t from = at < 0 ? (uint64_t)lseek(file, 0, SEEK_CUR) - done : (uint64_t)at;
        write_down(WRITE, which, from, NULL, taken, used);
    }
    unlock();
    errno = error;
    return done;
}

EXPORT ssize_t write(int file, const void *data, size_t length) {
    struct iovec slice = { (void *)data, length };
    return written(file, &slice, 1, -1);
}
EXPORT ssize_t pwrite(int file, const void *data, size_t length, off_t at) {
    struct iovec slice = { (void *)data, length };
    return written(file, &slice, 1, at);
}
EXPORT ssize_t pwrite64(int file, const void *data, size_t length, off_t at) { return pwrite(file, data, length, at); }
EXPORT ssize_t writev(int file, const struct iovec *slices, int count) { return written(file, slices, count, -1); }
EXPORT ssize_t pwritev(int file, const struct iovec *slices, int count, off_t at) { return written(file, slices, count, at); }
EXPORT ssize_t pwritev64(int file, const struct iovec *slices, int count, off_t at) { return written(file, slices, count, at); }
EXPORT ssize_t pwritev2(int file, const struct iovec *slices, int count, off_t at, int flags) {
    (void)flags;
    return written(file, slices, count, at);
}
EXPORT ssize_t pwritev64v2(int file, const struct iovec *slices, int count, off_t at, int flags) {
    (void)flags;
    return written(file, slices, count, at);
}

static int cut(int file, off_t length, int (*how)(int, off_t)) {
    FAIL_IF(refused_open(ON_TRUNCATE, file));
    lock();
    uint32_t which = number(file);
    int done = how(file, length), error = errno;
    if (which && done == 0) write_down(LENGTH, which, length, NULL, NULL, 0);
    unlock();
    errno = error;
    return done;
}

EXPORT int ftruncate(int file, off_t length) { return cut(file, length, REAL(ftruncate)); }
EXPORT int ftruncate64(int file, off_t length) { return cut(file, length, REAL(ftruncate)); }

/* Reserves room, and may lengthen the file. */
static int reserve(int file, int mode, off_t at, off_t length) {
    FAIL_IF(refused_open(ON_WRITE, file));
    lock();
    uint32_t which = number(file);
    struct stat before;
    int seen = fstat(file, &before);
    int done = REAL(fallocate)(file, mode, at, length), error = errno;
    if (which && done == 0 && seen == 0 && mode == 0 && at + length > before.st_size)
        write_down(LENGTH, which, at + length, NULL, NULL, 0);
    unlock();
    errno = error;
    return done;
}

EXPORT int fallocate(int file, int mode, off_t at, off_t length) { return reserve(file, mode, at, length); }
EXPORT int fallocate64(int file, int mode, off_t at, off_t length) { return reserve(file, mode, at, length); }
EXPORT int posix_fallocate(int file, off_t at, off_t length) { return reserve(file, 0, at, length) == 0 ? 0 : errno; }
EXPORT int posix_fallocate64(int file, off_t at, off_t length) { return posix_fallocate(file, at, length); }

EXPORT ssize_t pread64(int file, void *data, size_t length, off_t at) {
    FAIL_IF(refused_open(ON_READ, file));
    return REAL(pread64)(file, data, length, at);
}

/* Copies come through here as reads and writes. */
EXPORT ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *there, size_t length, unsigned flags) {
    (void)from, (void)at, (void)to, (void)there, (void)length, (void)flags;
    errno = ENOSYS;
    return -1;
}

/* --- Making safe. Not under the lock: meanwhile others write on. --- */

static int synced(int file, uint32_t call, int (*how)(int)) {
    FAIL_IF(refused_open(call, file));
    if (journal < 0) return how(file);
    char room[8192];
    lock();
    uint64_t began = journal_length;
    uint32_t which = number(file);
    unlock();
    const char *folder = which ? NULL : inside_open(file, room);
    int done = how(file), error = errno;
    if (done == 0 && (which || folder)) {
        lock();
        write_down(which ? SYNC : SYNC_FOLDER, which, began, folder, NULL, 0);
        unlock();
    }
    errno = error;
    return done;
}

EXPORT int fsync(int file) { return synced(file, ON_FSYNC, REAL(fsync)); }
EXPORT int fdatasync(int file) { return synced(file, ON_FDATASYNC, REAL(fdatasync)); }

EXPORT int syncfs(int file) {
    FAIL_IF(refused_open(ON_FSYNC, file));
    lock();
    uint64_t began = journal_length;
    unlock();
    int done = REAL(syncfs)(file), error = errno;
    lock();
    if (done == 0 && journal >= 0) write_down(SYNC_ALL, 0, began, NULL, NULL, 0);
    unlock();
    errno = error;
    return done;
}

/* --- Names. --- */

/* One name changes: `how` is the call. */
#define NAME(call, kind, folder, path, how) ({ \
    char room[8192]; \
    const char *in = inside_at(folder, path, room); \
    int error = in ? refused(call, in) : 0, done = -1; \
    if (error) errno = error; \
    else if (!in || journal < 0) done = (how); \
    else { \
        lock(); \
        done = (how); \
        error = errno; \
        if (done == 0) write_down(kind, 0, 0, in, NULL, 0); \
        unlock(); \
        errno = error; \
    } \
    done; })

EXPORT int mkdir(const char *path, mode_t mode) { return NAME(ON_MKDIR, MKDIR, AT_FDCWD, path, REAL(mkdir)(path, mode)); }
EXPORT int mkdirat(int folder, const char *path, mode_t mode) {
    return NAME(ON_MKDIR, MKDIR, folder, path, REAL(mkdirat)(folder, path, mode));
}
EXPORT int rmdir(const char *path) { return NAME(ON_RMDIR, RMDIR, AT_FDCWD, path, REAL(rmdir)(path)); }
EXPORT int unlink(const char *path) { return NAME(ON_UNLINK, UNLINK, AT_FDCWD, path, REAL(unlink)(path)); }
EXPORT int unlinkat(int folder, const char *path, int flags) {
    if (flags & AT_REMOVEDIR) return NAME(ON_RMDIR, RMDIR, folder, path, REAL(unlinkat)(folder, path, flags));
    return NAME(ON_UNLINK, UNLINK, folder, path, REAL(unlinkat)(folder, path, flags));
}

/* Two names: `how` is the call. What moves in or out of the folder is not expected. */
#define NAMES(call, kind, from_folder, from, to_folder, to, how) ({ \
    char from_room[8192], to_room[8192]; \
    const char *in = inside_at(from_folder, from, from_room), *out = inside_at(to_folder, to, to_room); \
    if ((in == NULL) != (out == NULL) && journal >= 0) abort(); \
    int error = in ? refused(call, in) : 0, done = -1; \
    if (error) errno = error; \
    else if (!in || journal < 0) done = (how); \
    else { \
        lock(); \
        done = (how); \
        error = errno; \
        if (done == 0) write_down_two(kind, in, out); \
        unlock(); \
        errno = error; \
    } \
    done; })

EXPORT int rename(const char *from, const char *to) {
    return NAMES(ON_RENAME, RENAME, AT_FDCWD, from, AT_FDCWD, to, REAL(rename)(from, to));
}
EXPORT int renameat(int a, const char *from, int b, const char *to) {
    return NAMES(ON_RENAME, RENAME, a, from, b, to, REAL(renameat)(a, from, b, to));
}
EXPORT int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    return NAMES(ON_RENAME, RENAME, a, from, b, to, REAL(renameat2)(a, from, b, to, flags));
}
EXPORT int link(const char *from, const char *to) {
    return NAMES(ON_RENAME, LINK, AT_FDCWD, from, AT_FDCWD, to, REAL(link)(from, to));
}
EXPORT int linkat(int a, const char *from, int b, const char *to, int flags) {
    return NAMES(ON_RENAME, LINK, a, from, b, to, REAL(linkat)(a, from, b, to, flags));
}
