/* SPDX-License-Identifier: MIT */
/*
** faults_disk.c: a VFS in front of the "unix" one, registered as the default.
** It passes every call on, unless that call is to fail.
*/
#include "faults.h"

#include <sqlite3.h>
#include <stdatomic.h>
#include <string.h>

/* What kind of call it is. */
enum { CALL_READ, CALL_WRITE, CALL_SYNC, CALL_OTHER };

static struct {
  _Atomic int armed;
  _Atomic int forever;
  _Atomic int failed;
  _Atomic enum disk_fault fault;
  _Atomic int64_t calls;
  _Atomic int64_t fail_at;
  _Atomic int64_t
      quota; /* bytes by which files may still grow; negative: any */
} disk = {.quota = -1};

/* Whether the armed fault concerns such calls. */
static int concerns(int call) {
  switch ((enum disk_fault)atomic_load(&disk.fault)) {
  case DISK_FULL: return call == CALL_WRITE;
  case DISK_NO_READ: return call == CALL_READ;
  case DISK_NO_SYNC: return call == CALL_SYNC;
  case DISK_ERROR: break;
  }
  return 1;
}

/* Any thread asks. */
static int must_fail(int call) {
  if (!disk.armed || !concerns(call)) return 0;
  int64_t number = ++disk.calls;
  if (number < disk.fail_at) return 0;
  if (number > disk.fail_at && !disk.forever) return 0;
  disk.failed = 1;
  return 1;
}

void faults_disk_arm(enum disk_fault fault, int64_t n, int forever) {
  disk.fault = fault;
  disk.calls = 0;
  disk.failed = 0;
  disk.fail_at = n;
  disk.forever = forever;
  disk.armed = 1;
}

int faults_disk_disarm(void) {
  disk.armed = 0;
  return disk.failed;
}

int64_t faults_disk_calls(void) {
  return disk.calls;
}

void faults_disk_quota(int64_t bytes) {
  disk.quota = bytes;
}

/* ---- A file ----------------------------------------------------------------- */

typedef struct shim_file {
  sqlite3_file base;
  sqlite3_file *real; /* behind this struct, in the same allocation */
} shim_file;

static sqlite3_file *real_of(sqlite3_file *file) {
  return ((shim_file *)file)->real;
}

static int shim_close(sqlite3_file *file) {
  return real_of(file)->pMethods->xClose(real_of(file));
}

static int shim_read(sqlite3_file *file, void *data, int size,
                     sqlite3_int64 at) {
  if (must_fail(CALL_READ)) return SQLITE_IOERR_READ;
  return real_of(file)->pMethods->xRead(real_of(file), data, size, at);
}

/* Whether the quota has room for a write; takes what the file grows by. */
static int quota_has_room(sqlite3_file *real, int64_t end) {
  sqlite3_int64 size = 0;
  if (disk.quota < 0) return 1;
  real->pMethods->xFileSize(real, &size);
  if (end <= size) return 1;
  if (end - size > disk.quota) return 0;
  disk.quota -= end - size;
  return 1;
}

static int shim_write(sqlite3_file *file, const void *data, int size,
                      sqlite3_int64 at) {
  sqlite3_file *real = real_of(file);
  if (must_fail(CALL_WRITE)) {
    return disk.fault == DISK_FULL ? SQLITE_FULL : SQLITE_IOERR_WRITE;
  }
  if (!quota_has_room(real, at + size)) return SQLITE_FULL;
  return real->pMethods->xWrite(real, data, size, at);
}

static int shim_truncate(sqlite3_file *file, sqlite3_int64 size) {
  if (must_fail(CALL_OTHER)) return SQLITE_IOERR_TRUNCATE;
  return real_of(file)->pMethods->xTruncate(real_of(file), size);
}

static int shim_sync(sqlite3_file *file, int flags) {
  if (must_fail(CALL_SYNC)) return SQLITE_IOERR_FSYNC;
  return real_of(file)->pMethods->xSync(real_of(file), flags);
}

static int shim_file_size(sqlite3_file *file, sqlite3_int64 *size) {
  if (must_fail(CALL_OTHER)) return SQLITE_IOERR_FSTAT;
  return real_of(file)->pMethods->xFileSize(real_of(file), size);
}

static int shim_lock(sqlite3_file *file, int level) {
  if (must_fail(CALL_OTHER)) return SQLITE_IOERR_LOCK;
  return real_of(file)->pMethods->xLock(real_of(file), level);
}

static int shim_unlock(sqlite3_file *file, int level) {
  return real_of(file)->pMethods->xUnlock(real_of(file), level);
}

static int shim_check_lock(sqlite3_file *file, int *held) {
  if (must_fail(CALL_OTHER)) return SQLITE_IOERR_CHECKRESERVEDLOCK;
  return real_of(file)->pMethods->xCheckReservedLock(real_of(file), held);
}

static int shim_control(sqlite3_file *file, int what, void *argument) {
  return real_of(file)->pMethods->xFileControl(real_of(file), what, argument);
}

static int shim_sector_size(sqlite3_file *file) {
  return real_of(file)->pMethods->xSectorSize(real_of(file));
}

static int shim_characteristics(sqlite3_file *file) {
  return real_of(file)->pMethods->xDeviceCharacteristics(real_of(file));
}

static int shim_shm_map(sqlite3_file *file, int page, int size, int extend,
                        void volatile **memory) {
  if (must_fail(CALL_OTHER)) return SQLITE_IOERR_SHMMAP;
  return real_of(file)->pMethods->xShmMap(real_of(file), page, size, extend,
                                          memory);
}

static int shim_shm_lock(sqlite3_file *file, int at, int count, int flags) {
  if (!(flags & SQLITE_SHM_UNLOCK) && must_fail(CALL_OTHER)) {
    return SQLITE_IOERR_SHMLOCK;
  }
  return real_of(file)->pMethods->xShmLock(real_of(file), at, count, flags);
}

static void shim_shm_barrier(sqlite3_file *file) {
  real_of(file)->pMethods->xShmBarrier(real_of(file));
}

static int shim_shm_unmap(sqlite3_file *file, int remove) {
  return real_of(file)->pMethods->xShmUnmap(real_of(file), remove);
}

static const sqlite3_io_methods shim_methods = {
    .iVersion = 2,
    .xClose = shim_close,
    .xRead = shim_read,
    .xWrite = shim_write,
    .xTruncate = shim_truncate,
    .xSync = shim_sync,
    .xFileSize = shim_file_size,
    .xLock = shim_lock,
    .xUnlock = shim_unlock,
    .xCheckReservedLock = shim_check_lock,
    .xFileControl = shim_control,
    .xSectorSize = shim_sector_size,
    .xDeviceCharacteristics = shim_characteristics,
    .xShmMap = shim_shm_map,
    .xShmLock = shim_shm_lock,
    .xShmBarrier = shim_shm_barrier,
    .xShmUnmap = shim_shm_unmap,
};

/* ---- The VFS ------------------------------------------------------------------ */

static sqlite3_vfs *real_vfs;

static int shim_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file,
                     int flags, int *flags_out) {
  shim_file *shim = (shim_file *)file;
  (void)vfs;
  shim->base.pMethods = NULL;
  shim->real = (sqlite3_file *)(shim + 1);
  if (must_fail(CALL_OTHER)) return SQLITE_CANTOPEN;
  int code = real_vfs->xOpen(real_vfs, name, shim->real, flags, flags_out);
  if (shim->real->pMethods) shim->base.pMethods = &shim_methods;
  return code;
}

static int shim_delete(sqlite3_vfs *vfs, const char *name, int sync) {
  (void)vfs;
  if (must_fail(CALL_OTHER)) return SQLITE_IOERR_DELETE;
  return real_vfs->xDelete(real_vfs, name, sync);
}

static int shim_access(sqlite3_vfs *vfs, const char *name, int flags,
                       int *result) {
  (void)vfs;
  if (must_fail(CALL_OTHER)) return SQLITE_IOERR_ACCESS;
  return real_vfs->xAccess(real_vfs, name, flags, result);
}

void faults_disk_install(void) {
  static sqlite3_vfs shim;
  sqlite3_initialize();
  real_vfs = sqlite3_vfs_find("unix");
  shim = *real_vfs;
  shim.szOsFile = (int)sizeof(shim_file) + real_vfs->szOsFile;
  shim.pNext = NULL;
  shim.zName = "faults";
  shim.xOpen = shim_open;
  shim.xDelete = shim_delete;
  shim.xAccess = shim_access;
  sqlite3_vfs_register(&shim, 1);
}
