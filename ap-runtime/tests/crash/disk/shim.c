// A disk that fails, and that forgets what it was not told to keep.
//
// Preloaded into a process (LD_PRELOAD), it stands between the process and every file below the directory AP_DISK_DIR.
// The test steers it through AP_DISK_CONTROL, a file of 64-bit numbers that both sides share (see `enum word`):
//
// * A call that writes, or one that syncs, can fail: with EIO, with ENOSPC, or by writing half of what it was given.
//   As on Linux, what a failed sync left behind is never written by a later one: only if it is written again.
// * The power can fail: at once, when the file `power.off` is opened, or as the n-th call begins. Then every byte that was
//   written since the last sync of its file is taken back: all of them, or those sectors of 512 bytes that a seed picks.
//   Files made, removed or renamed since the last sync of their directory are as they were. The process is killed.
// * A sync can be a lie, and do nothing.
//
// What is mapped is not seen. SQLite maps its `-shm` file only, which a crash may lose; any other shared mapping that can
// be written aborts the process, and so does a way of writing that is not covered.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define SECTOR 512
#define EXPORT __attribute__((visibility("default")))

// The words of the control file. The test writes the first ones, the shim the counters behind them.
enum word {
    FAIL_IN,       // the call that fails: 1 is the next one; 0: none
    FAIL_FOR,      // how many calls fail in a row
    FAIL_WHICH,    // 1: writes, 2: syncs, 3: both
    FAIL_HOW,      // EIO, ENOSPC, or 0: half is written, and the next write finds no space
    POWER_OFF_IN,  // the call at which the power fails: 1 is the next one; 0: none
    POWER_WHICH,   // as FAIL_WHICH
    TORN_SEED,     // picks the sectors that were written nevertheless; 0: none were
    LIE,           // 1: syncs do nothing
    WRITES,        // calls that wrote
    SYNCS,         // calls that synced
    FAILED,        // calls that failed
    TAKEN_BACK,    // sectors that were taken back at the power failure
    WORDS
};

enum { WRITE = 1, SYNC = 2 };

// What would be on the disk of one file.
struct sector {
    unsigned char *old;  // what the disk holds; NULL: the same as the file
    int abandoned;       // its sync failed
};

struct inode {
    dev_t dev;
    ino_t ino;
    int fd;                  // never closed: closing any would free the locks the process has on the file
    off_t size;              // of what is on the disk
    struct sector *sectors;
    size_t count;
    struct inode *next;
};

// A change of a directory that is not on the disk yet, the newest first.
struct entry {
    enum { MADE, REMOVED, RENAMED } what;
    char path[PATH_MAX];
    char other[PATH_MAX];  // the new name
    char kept[PATH_MAX];   // another link of the file that was removed or replaced; empty: there was none
    struct entry *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char directory[PATH_MAX];
static size_t directory_length;
static uint64_t *control;
static struct inode *inodes;
static struct entry *entries;
static int no_space_next;
static unsigned links;

static int (*real_open)(const char *, int, ...);
static int (*real_openat)(int, const char *, int, ...);
static ssize_t (*real_pread)(int, void *, size_t, off_t);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_unlink)(const char *);
static int (*real_rename)(const char *, const char *);
static void *(*real_mmap)(void *, size_t, int, int, int, off_t);

static void stop(const char *why) {
    fprintf(stderr, "disk shim: %s\n", why);
    abort();
}

__attribute__((constructor)) static void start(void) {
    real_open = dlsym(RTLD_NEXT, "open");
    real_openat = dlsym(RTLD_NEXT, "openat");
    real_pread = dlsym(RTLD_NEXT, "pread");
    real_write = dlsym(RTLD_NEXT, "write");
    real_pwrite = dlsym(RTLD_NEXT, "pwrite");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    real_rename = dlsym(RTLD_NEXT, "rename");
    real_mmap = dlsym(RTLD_NEXT, "mmap");
    const char *below = getenv("AP_DISK_DIR"), *steered = getenv("AP_DISK_CONTROL");
    if (!below || !steered) return;
    if (!realpath(below, directory)) stop("AP_DISK_DIR does not exist");
    directory_length = strlen(directory);
    int file = real_open(steered, O_RDWR | O_CLOEXEC);
    if (file < 0) stop("AP_DISK_CONTROL cannot be opened");
    void *shared = real_mmap(NULL, WORDS * sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (shared == MAP_FAILED) stop("AP_DISK_CONTROL cannot be mapped");
    close(file);
    control = shared;
}

static uint64_t get(enum word word) { return __atomic_load_n(&control[word], __ATOMIC_SEQ_CST); }
static void set(enum word word, uint64_t value) { __atomic_store_n(&control[word], value, __ATOMIC_SEQ_CST); }

// The rest of the path if it is below the directory, else NULL.
static const char *below(const char *path) {
    if (!control || strncmp(path, directory, directory_length) != 0) return NULL;
    return path[directory_length] == '/' ? path + directory_length + 1 : NULL;
}

static int path_of(int fd, char path[PATH_MAX]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return 1;
}

static int is_shm(const char *path) {
    size_t length = strlen(path);
    return length >= 4 && strcmp(path + length - 4, "-shm") == 0;
}

// The file behind `fd` if it is one of those that are kept an eye on. Call it with the lock held.
static struct inode *find(int fd) {
    char path[PATH_MAX];
    struct stat stat;
    if (!control || fstat(fd, &stat) != 0 || !S_ISREG(stat.st_mode)) return NULL;
    for (struct inode *inode = inodes; inode; inode = inode->next) {
        if (inode->dev == stat.st_dev && inode->ino == stat.st_ino) return inode;
    }
    if (!path_of(fd, path) || !below(path) || is_shm(path)) return NULL;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int own = real_open(path, O_RDWR | O_CLOEXEC);
    struct inode *inode = calloc(1, sizeof *inode);
    if (own < 0 || !inode) stop("a file cannot be watched");
    // What was there before the process wrote to it is on the disk.
    *inode = (struct inode){.dev = stat.st_dev, .ino = stat.st_ino, .fd = own, .size = stat.st_size, .next = inodes};
    inodes = inode;
    return inode;
}

// Keeps what the disk holds of a range that is about to be written, or cut off.
static void keep(struct inode *inode, off_t from, off_t to) {
    if (to <= from) return;
    size_t first = from / SECTOR, last = (to - 1) / SECTOR;
    if (last >= inode->count) {
        size_t count = (last + 1) * 2;
        inode->sectors = realloc(inode->sectors, count * sizeof *inode->sectors);
        if (!inode->sectors) stop("out of memory");
        memset(inode->sectors + inode->count, 0, (count - inode->count) * sizeof *inode->sectors);
        inode->count = count;
    }
    for (size_t number = first; number <= last; number++) {
        struct sector *sector = &inode->sectors[number];
        sector->abandoned = 0;
        if (sector->old) continue;
        sector->old = calloc(1, SECTOR);
        if (!sector->old) stop("out of memory");
        if (real_pread(inode->fd, sector->old, SECTOR, (off_t)number * SECTOR) < 0) stop("a file cannot be read");
    }
}

static off_t size_of(const struct inode *inode) {
    struct stat stat;
    if (fstat(inode->fd, &stat) != 0) stop("a file has no size");
    return stat.st_size;
}

static void synced(struct inode *inode) {
    for (size_t number = 0; number < inode->count; number++) {
        struct sector *sector = &inode->sectors[number];
        if (sector->abandoned) continue;
        free(sector->old);
        sector->old = NULL;
    }
    inode->size = size_of(inode);
}

static uint64_t mix(uint64_t z) {
    z += 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

// Whether something that nobody synced reached the disk all the same.
static int survives(uint64_t seed, uint64_t which) { return seed && mix(seed ^ mix(which)) % 2 == 0; }

static void take_back(struct inode *inode, uint64_t seed, uint64_t ordinal) {
    uint64_t taken = 0;
    // The size is one fact: it reached the disk, or it did not.
    off_t now = size_of(inode), size = survives(seed, ordinal << 40) ? now : inode->size;
    for (size_t number = 0; number < inode->count; number++) {
        struct sector *sector = &inode->sectors[number];
        off_t at = (off_t)number * SECTOR;
        // What was cut off and is not cut off after all is what it was.
        int can_survive = !sector->abandoned && at < now;
        if (!sector->old || (can_survive && survives(seed, (ordinal << 40) + number + 1))) continue;
        if (real_pwrite(inode->fd, sector->old, SECTOR, at) != SECTOR) stop("a sector cannot be restored");
        taken++;
    }
    if (real_ftruncate(inode->fd, size) != 0) stop("a size cannot be restored");
    set(TAKEN_BACK, get(TAKEN_BACK) + taken);
}

static void take_back_entries(uint64_t seed) {
    // Directories are journalled: what reached the disk is everything up to some change.
    uint64_t ordinal = 1ULL << 60;
    for (struct entry *entry = entries; entry; entry = entry->next) {
        if (survives(seed, ordinal++)) return;
        switch (entry->what) {
            case MADE: real_unlink(entry->path); break;
            case REMOVED:
                if (entry->kept[0] && link(entry->kept, entry->path) != 0) stop("a file cannot be brought back");
                break;
            case RENAMED:
                if (real_rename(entry->other, entry->path) != 0) stop("a name cannot be brought back");
                if (entry->kept[0] && link(entry->kept, entry->other) != 0) stop("a file cannot be brought back");
                break;
        }
    }
}

// Call it with the lock held, so that nobody writes any more.
static void power_off(void) {
    uint64_t seed = get(TORN_SEED), ordinal = 1;
    for (struct inode *inode = inodes; inode; inode = inode->next) take_back(inode, seed, ordinal++);
    take_back_entries(seed);
    for (struct entry *entry = entries; entry; entry = entry->next) {
        if (entry->kept[0]) real_unlink(entry->kept);
    }
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static int counts_down(enum word word) {
    uint64_t left = get(word);
    if (left == 0) return 0;
    set(word, left - 1);
    return left == 1;
}

// Counts a call, and returns the error it is to fail with; -1: it writes half; 0: it does as it is told.
static int fate(int kind) {
    enum word counter = kind == SYNC ? SYNCS : WRITES;
    set(counter, get(counter) + 1);
    if ((get(POWER_WHICH) & kind) && counts_down(POWER_OFF_IN)) power_off();
    if (kind == WRITE && no_space_next) {
        no_space_next = 0;
        return ENOSPC;
    }
    if (!(get(FAIL_WHICH) & kind) || !counts_down(FAIL_IN)) return 0;
    uint64_t more = get(FAIL_FOR);
    if (more > 1) {
        set(FAIL_FOR, more - 1);
        set(FAIL_IN, 1);
    }
    set(FAILED, get(FAILED) + 1);
    int how = (int)get(FAIL_HOW);
    if (how) return how;
    return kind == SYNC ? EIO : -1;
}

static ssize_t do_write(int fd, const void *bytes, size_t length, off_t at, int positioned) {
    pthread_mutex_lock(&lock);
    struct inode *inode = find(fd);
    if (inode) {
        int error = fate(WRITE);
        if (error > 0) {
            pthread_mutex_unlock(&lock);
            errno = error;
            return -1;
        }
        if (error < 0) {
            no_space_next = 1;
            length = length > 1 ? length / 2 : length;
        }
        if (!positioned) {
            at = (fcntl(fd, F_GETFL) & O_APPEND) ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
        }
        keep(inode, at, at + (off_t)length);
    }
    ssize_t written = positioned ? real_pwrite(fd, bytes, length, at) : real_write(fd, bytes, length);
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return written;
}

static int is_watched(int fd) {
    struct stat stat;
    // Pipes and sockets do not wait for the lock.
    if (!control || fstat(fd, &stat) != 0 || !S_ISREG(stat.st_mode)) return 0;
    pthread_mutex_lock(&lock);
    int watched = find(fd) != NULL;
    pthread_mutex_unlock(&lock);
    return watched;
}

EXPORT ssize_t write(int fd, const void *bytes, size_t length) {
    if (!is_watched(fd)) return real_write(fd, bytes, length);
    return do_write(fd, bytes, length, 0, 0);
}
EXPORT ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) {
    return do_write(fd, bytes, length, at, 1);
}
EXPORT ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t at) {
    return do_write(fd, bytes, length, at, 1);
}

static int do_truncate(int fd, off_t size) {
    pthread_mutex_lock(&lock);
    struct inode *inode = find(fd);
    if (inode) {
        int error = fate(WRITE);
        if (error) {
            pthread_mutex_unlock(&lock);
            errno = error > 0 ? error : EIO;
            return -1;
        }
        keep(inode, size, size_of(inode));
    }
    int done = real_ftruncate(fd, size);
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

EXPORT int ftruncate(int fd, off_t size) { return do_truncate(fd, size); }
EXPORT int ftruncate64(int fd, off_t size) { return do_truncate(fd, size); }

// Forgets the changes of a directory that are on the disk now.
static void directory_synced(const char *path) {
    size_t length = strlen(path);
    for (struct entry **at = &entries; *at;) {
        struct entry *entry = *at;
        const char *slash = strrchr(entry->path, '/');
        if ((size_t)(slash - entry->path) == length && strncmp(entry->path, path, length) == 0) {
            if (entry->kept[0]) real_unlink(entry->kept);
            *at = entry->next;
            free(entry);
        } else {
            at = &entry->next;
        }
    }
}

static int do_sync(int fd, int (*real)(int)) {
    if (!control) return real(fd);
    pthread_mutex_lock(&lock);
    char path[PATH_MAX];
    struct stat stat;
    struct inode *inode = find(fd);
    int is_directory = !inode && fstat(fd, &stat) == 0 && S_ISDIR(stat.st_mode) && path_of(fd, path) &&
                       (below(path) || strcmp(path, directory) == 0);
    // A directory's sync is not failed: SQLite does not look at what came of it.
    int error = inode ? fate(SYNC) : 0;
    if (error) {
        for (size_t number = 0; inode && number < inode->count; number++) {
            inode->sectors[number].abandoned = inode->sectors[number].old != NULL;
        }
    } else if ((inode || is_directory) && !get(LIE)) {
        // Nothing outlives this process but through the shim, so the machine's own disk need not be waited for.
        if (inode) synced(inode);
        if (is_directory) directory_synced(path);
    } else if (!inode && !is_directory) {
        real(fd);
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return error ? -1 : 0;
}

EXPORT int fsync(int fd) { return do_sync(fd, real_fsync); }
EXPORT int fdatasync(int fd) { return do_sync(fd, real_fdatasync); }

static void remember(struct entry given) {
    struct entry *entry = malloc(sizeof *entry);
    if (!entry) stop("out of memory");
    *entry = given;
    entry->next = entries;
    entries = entry;
}

// Gives a file that is about to lose its name another one, outside of what the process knows.
static void keep_link(const char *path, char kept[PATH_MAX]) {
    snprintf(kept, PATH_MAX, "%.*s/.disk-shim-%d-%u", (int)directory_length, directory, getpid(), links++);
    if (link(path, kept) != 0) kept[0] = 0;
}

static int do_open(int at, const char *path, int flags, mode_t mode) {
    char full[PATH_MAX];
    if (control && path[0] == '/' && below(path)) {
        snprintf(full, sizeof full, "%s", path);
    } else {
        return real_openat(at, path, flags, mode);
    }
    pthread_mutex_lock(&lock);
    if (strcmp(below(full), "power.off") == 0) power_off();
    int makes = (flags & O_CREAT) && access(full, F_OK) != 0 && !is_shm(full);
    int fd = real_openat(at, path, flags & ~O_TRUNC, mode);
    int error = errno;
    if (fd >= 0 && makes) {
        struct entry entry = {.what = MADE};
        memcpy(entry.path, full, sizeof full);
        remember(entry);
    }
    pthread_mutex_unlock(&lock);
    if (fd >= 0 && (flags & O_TRUNC) && do_truncate(fd, 0) != 0) {
        error = errno;
        close(fd);
        fd = -1;
    }
    errno = error;
    return fd;
}

#define MODE(mode)                                        \
    mode_t mode = 0;                                      \
    if (flags & (O_CREAT | __O_TMPFILE)) {                \
        va_list arguments;                                \
        va_start(arguments, flags);                       \
        mode = va_arg(arguments, mode_t);                 \
        va_end(arguments);                                \
    }

EXPORT int open(const char *path, int flags, ...) {
    MODE(mode)
    return control ? do_open(AT_FDCWD, path, flags, mode) : real_open(path, flags, mode);
}
EXPORT int open64(const char *path, int flags, ...) {
    MODE(mode)
    return control ? do_open(AT_FDCWD, path, flags, mode) : real_open(path, flags, mode);
}
EXPORT int openat(int at, const char *path, int flags, ...) {
    MODE(mode)
    return do_open(at, path, flags, mode);
}
EXPORT int openat64(int at, const char *path, int flags, ...) {
    MODE(mode)
    return do_open(at, path, flags, mode);
}
EXPORT int creat(const char *path, mode_t mode) {
    return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}
EXPORT int creat64(const char *path, mode_t mode) {
    return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

EXPORT int unlink(const char *path) {
    if (!control || !below(path) || is_shm(path)) return real_unlink(path);
    pthread_mutex_lock(&lock);
    struct entry entry = {.what = REMOVED};
    snprintf(entry.path, sizeof entry.path, "%s", path);
    keep_link(path, entry.kept);
    int done = real_unlink(path);
    int error = errno;
    if (done == 0) remember(entry);
    else if (entry.kept[0]) real_unlink(entry.kept);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

EXPORT int rename(const char *from, const char *to) {
    if (!control || !(below(from) || below(to))) return real_rename(from, to);
    if (!below(from) || !below(to)) stop("a file moves in or out of the directory");
    pthread_mutex_lock(&lock);
    struct entry entry = {.what = RENAMED};
    snprintf(entry.path, sizeof entry.path, "%s", from);
    snprintf(entry.other, sizeof entry.other, "%s", to);
    keep_link(to, entry.kept);
    int done = real_rename(from, to);
    int error = errno;
    if (done == 0) remember(entry);
    else if (entry.kept[0]) real_unlink(entry.kept);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

EXPORT void *mmap(void *hint, size_t length, int protection, int flags, int fd, off_t at) {
    if (!real_mmap) real_mmap = dlsym(RTLD_NEXT, "mmap");
    if (fd >= 0 && (flags & MAP_SHARED) && (protection & PROT_WRITE) && is_watched(fd)) stop("a file is mapped for writing");
    return real_mmap(hint, length, protection, flags, fd, at);
}
EXPORT void *mmap64(void *hint, size_t length, int protection, int flags, int fd, off_t at) {
    return mmap(hint, length, protection, flags, fd, at);
}

// Ways of writing that nothing here uses. Should that change, it must not go unseen.
#define NOT_COVERED(name) if (is_watched(fd)) stop(name " is not covered")
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

EXPORT ssize_t writev(int fd, const struct iovec *parts, int count) {
    NOT_COVERED("writev");
    return REAL(writev)(fd, parts, count);
}
EXPORT ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    NOT_COVERED("pwritev");
    return REAL(pwritev)(fd, parts, count, at);
}
EXPORT ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t at) {
    NOT_COVERED("pwritev64");
    return REAL(pwritev64)(fd, parts, count, at);
}
EXPORT int fallocate(int fd, int mode, off_t at, off_t length) {
    NOT_COVERED("fallocate");
    return REAL(fallocate)(fd, mode, at, length);
}
EXPORT int posix_fallocate(int fd, off_t at, off_t length) {
    NOT_COVERED("posix_fallocate");
    return REAL(posix_fallocate)(fd, at, length);
}
EXPORT ssize_t copy_file_range(int from, off_t *from_at, int fd, off_t *at, size_t length, unsigned flags) {
    NOT_COVERED("copy_file_range");
    return REAL(copy_file_range)(from, from_at, fd, at, length, flags);
}
