/* SPDX-License-Identifier: MIT */
/*
** faults_power.c: the VFS that records, the disk that follows the record, and
** what is left on it after a cut. faults_power.h has the rules.
**
** The VFS stands in front of the "unix" one and passes every call on. That a
** folder is synced cannot be seen from a VFS: the "unix" one does it by itself
** with the first sync of a journal, and when it is told to with a deletion. So
** the system call by which it opens the folder, which it does for nothing
** else, is listened to.
*/
#include "faults_power.h"

#include "harness.h"

#include <unistd.h>

#define SECTOR 512 /* bytes that are written as a whole */

/* ---- Bytes -------------------------------------------------------------- */

static void *allocated(void *memory) {
  if (memory == NULL) {
    print_error("out of memory\n");
    abort();
  }
  return memory;
}

/* Make room for so many items; the array is twice as long each time. */
static void *grown(void *array, size_t *room, size_t count, size_t size) {
  if (count <= *room) return array;
  while (*room < count) *room = *room ? *room * 2 : 64;
  return allocated(realloc(array, *room * size));
}

static void bytes_resize(power_bytes *bytes, size_t size) {
  bytes->data = grown(bytes->data, &bytes->room, size, 1);
  if (size > bytes->size) {
    memset(bytes->data + bytes->size, 0, size - bytes->size);
  }
  bytes->size = size;
}

static void bytes_write(power_bytes *bytes, size_t at, const void *data,
                        size_t size) {
  if (at + size > bytes->size) bytes_resize(bytes, at + size);
  memcpy(bytes->data + at, data, size);
}

static void bytes_copy(power_bytes *to, const power_bytes *from) {
  to->size = 0;
  bytes_resize(to, from->size);
  if (from->size) memcpy(to->data, from->data, from->size);
}

static void bytes_free(power_bytes *bytes) {
  free(bytes->data);
  memset(bytes, 0, sizeof *bytes);
}

static void bytes_load(power_bytes *bytes, const char *path) {
  char buffer[65536];
  size_t got;
  FILE *file = fopen(path, "rb");
  if (file == NULL) fail_msg("cannot read %s", path);
  while ((got = fread(buffer, 1, sizeof buffer, file)) > 0) {
    bytes_write(bytes, bytes->size, buffer, got);
  }
  fclose(file);
}

static void bytes_store(const power_bytes *bytes, const char *path) {
  FILE *file = fopen(path, "wb");
  if (file == NULL) fail_msg("cannot write %s", path);
  size_t put = bytes->size ? fwrite(bytes->data, 1, bytes->size, file) : 0;
  if (fclose(file) != 0 || put != bytes->size) fail_msg("writing %s", path);
}

/* ---- The record --------------------------------------------------------- */

static const char *const suffixes[POWER_FILES] = {"", "-wal", "-journal"};

static struct {
  power_record *record; /* NULL: nothing is recorded */
  char path[512];       /* of the database, as SQLite calls it */
  size_t names[POWER_FILES];
  int folder_synced; /* since it was last looked at */
} recorder;

static power_event *event_add(enum power_kind kind, enum power_file file,
                              size_t inode) {
  power_record *r = recorder.record;
  r->events = grown(r->events, &r->room, r->count + 1, sizeof *r->events);
  power_event *event = &r->events[r->count++];
  memset(event, 0, sizeof *event);
  event->kind = kind;
  event->file = file;
  event->inode = inode;
  return event;
}

/* The folder may have been synced in the call that has just been passed on. */
static void folder_look(void) {
  if (recorder.folder_synced) event_add(POWER_SYNC_FOLDER, POWER_DATABASE, 0);
  recorder.folder_synced = 0;
}

void power_record_returned(void) {
  event_add(POWER_RETURNED, POWER_DATABASE, 0);
}

void power_record_free(power_record *record) {
  for (size_t i = 0; i < record->count; i++) free(record->events[i].data);
  free(record->events);
  bytes_free(&record->base);
  memset(record, 0, sizeof *record);
}

void power_event_describe(const power_event *event, char *text, size_t size) {
  static const char *const files[] = {"database", "WAL", "journal"};
  static const char *const kinds[] = {
      "made",   "deleted",           "written",  "truncated",
      "synced", "folder was synced", "returned",
  };
  const char *file = files[event->file];
  const char *kind = kinds[event->kind];
  switch (event->kind) {
  case POWER_SYNC_FOLDER: snprintf(text, size, "the %s", kind); break;
  case POWER_RETURNED: snprintf(text, size, "an operation %s", kind); break;
  case POWER_WRITE:
    snprintf(text, size, "the %s was %s, %lld bytes at %lld", file, kind,
             (long long)event->size, (long long)event->at);
    break;
  case POWER_TRUNCATE:
    snprintf(text, size, "the %s was %s to %lld bytes", file, kind,
             (long long)event->at);
    break;
  default: snprintf(text, size, "the %s was %s", file, kind);
  }
}

/* ---- A file that is recorded -------------------------------------------- */

typedef struct shim_file {
  sqlite3_file base;
  sqlite3_file *real; /* behind this struct, in the same allocation */
  enum power_file file;
  size_t inode; /* POWER_NO_FILE: not one of the database */
} shim_file;

static sqlite3_file *real_of(sqlite3_file *file) {
  return ((shim_file *)file)->real;
}

/* Whether a call that ended with `code` is to be recorded. */
static int is_recorded(sqlite3_file *file, int code) {
  return recorder.record && code == SQLITE_OK &&
         ((shim_file *)file)->inode != POWER_NO_FILE;
}

static power_event *event_of(enum power_kind kind, sqlite3_file *file) {
  return event_add(kind, ((shim_file *)file)->file, ((shim_file *)file)->inode);
}

static int shim_close(sqlite3_file *file) {
  return real_of(file)->pMethods->xClose(real_of(file));
}

static int shim_read(sqlite3_file *file, void *data, int size,
                     sqlite3_int64 at) {
  return real_of(file)->pMethods->xRead(real_of(file), data, size, at);
}

static int shim_write(sqlite3_file *file, const void *data, int size,
                      sqlite3_int64 at) {
  int code = real_of(file)->pMethods->xWrite(real_of(file), data, size, at);
  if (!is_recorded(file, code)) return code;
  power_event *event = event_of(POWER_WRITE, file);
  event->at = at;
  event->size = size;
  event->data = allocated(malloc((size_t)size));
  memcpy(event->data, data, (size_t)size);
  return code;
}

static int shim_truncate(sqlite3_file *file, sqlite3_int64 size) {
  int code = real_of(file)->pMethods->xTruncate(real_of(file), size);
  if (is_recorded(file, code)) event_of(POWER_TRUNCATE, file)->at = size;
  return code;
}

static int shim_sync(sqlite3_file *file, int flags) {
  int code = real_of(file)->pMethods->xSync(real_of(file), flags);
  if (!is_recorded(file, code)) return code;
  event_of(POWER_SYNC, file);
  folder_look();
  return code;
}

static int shim_file_size(sqlite3_file *file, sqlite3_int64 *size) {
  return real_of(file)->pMethods->xFileSize(real_of(file), size);
}

static int shim_lock(sqlite3_file *file, int level) {
  return real_of(file)->pMethods->xLock(real_of(file), level);
}

static int shim_unlock(sqlite3_file *file, int level) {
  return real_of(file)->pMethods->xUnlock(real_of(file), level);
}

static int shim_check_lock(sqlite3_file *file, int *taken) {
  return real_of(file)->pMethods->xCheckReservedLock(real_of(file), taken);
}

static int shim_control(sqlite3_file *file, int what, void *argument) {
  return real_of(file)->pMethods->xFileControl(real_of(file), what, argument);
}

static int shim_sector_size(sqlite3_file *file) {
  return real_of(file)->pMethods->xSectorSize(real_of(file));
}

/* The disk promises no more than what faults_power.h says. */
static int shim_characteristics(sqlite3_file *file) {
  (void)file;
  return SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

static int shim_shm_map(sqlite3_file *file, int page, int size, int extend,
                        void volatile **memory) {
  return real_of(file)->pMethods->xShmMap(real_of(file), page, size, extend,
                                          memory);
}

static int shim_shm_lock(sqlite3_file *file, int at, int count, int flags) {
  return real_of(file)->pMethods->xShmLock(real_of(file), at, count, flags);
}

static void shim_shm_barrier(sqlite3_file *file) {
  real_of(file)->pMethods->xShmBarrier(real_of(file));
}

static int shim_shm_unmap(sqlite3_file *file, int remove) {
  return real_of(file)->pMethods->xShmUnmap(real_of(file), remove);
}

/* Version 2: without xFetch nothing is written through mapped memory. */
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

/* ---- The VFS that records ----------------------------------------------- */

static sqlite3_vfs *real_vfs;
static int (*real_open_folder)(const char *, int *);

static int open_folder(const char *path, int *descriptor) {
  recorder.folder_synced = 1;
  return real_open_folder(path, descriptor);
}

/* Which file of the database such an open is of; POWER_FILES: none. */
static enum power_file file_by_flags(int flags) {
  if (flags & SQLITE_OPEN_MAIN_DB) return POWER_DATABASE;
  if (flags & SQLITE_OPEN_WAL) return POWER_WAL;
  if (flags & SQLITE_OPEN_MAIN_JOURNAL) return POWER_JOURNAL;
  return POWER_FILES;
}

static enum power_file file_by_name(const char *name) {
  size_t length = strlen(recorder.path);
  if (strncmp(name, recorder.path, length) != 0) return POWER_FILES;
  for (int i = 0; i < POWER_FILES; i++) {
    if (strcmp(name + length, suffixes[i]) == 0) return (enum power_file)i;
  }
  return POWER_FILES;
}

static void opened(shim_file *shim, const char *name, enum power_file file,
                   int existed) {
  if (file == POWER_DATABASE) {
    snprintf(recorder.path, sizeof recorder.path, "%s", name);
  }
  shim->file = file;
  if (!existed) {
    recorder.names[file] = recorder.record->inodes++;
    event_add(POWER_CREATE, file, recorder.names[file]);
  }
  shim->inode = recorder.names[file];
}

static int shim_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file,
                     int flags, int *flags_out) {
  shim_file *shim = (shim_file *)file;
  enum power_file which = file_by_flags(flags);
  int existed = name && access(name, F_OK) == 0;
  (void)vfs;
  shim->base.pMethods = NULL;
  shim->real = (sqlite3_file *)(shim + 1);
  shim->inode = POWER_NO_FILE;
  int code = real_vfs->xOpen(real_vfs, name, shim->real, flags, flags_out);
  if (shim->real->pMethods) shim->base.pMethods = &shim_methods;
  if (code == SQLITE_OK && recorder.record && name && which != POWER_FILES) {
    opened(shim, name, which, existed);
  }
  return code;
}

static int shim_delete(sqlite3_vfs *vfs, const char *name, int sync) {
  enum power_file file = file_by_name(name);
  (void)vfs;
  int code = real_vfs->xDelete(real_vfs, name, sync);
  if (code != SQLITE_OK || !recorder.record || file == POWER_FILES) return code;
  event_add(POWER_DELETE, file, recorder.names[file]);
  recorder.names[file] = POWER_NO_FILE;
  folder_look();
  return code;
}

/* Put the VFS before the plain one, and listen to how that opens folders. */
static void install(void) {
  static sqlite3_vfs shim;
  union {
    int (*typed)(const char *, int *);
    void (*plain)(void);
  } entry;
  sqlite3_initialize();
  sqlite3_vfs_unregister(&shim); /* a failed test may have left it there */
  if (real_vfs == NULL) {
    real_vfs = sqlite3_vfs_find("unix");
    entry.plain = real_vfs->xGetSystemCall(real_vfs, "openDirectory");
    real_open_folder = entry.typed;
  }
  if (real_open_folder == NULL) fail_msg("this SQLite syncs no folders");
  entry.typed = open_folder;
  real_vfs->xSetSystemCall(real_vfs, "openDirectory", entry.plain);
  shim = *real_vfs;
  shim.szOsFile = (int)sizeof(shim_file) + real_vfs->szOsFile;
  shim.pNext = NULL;
  shim.zName = "power";
  shim.xOpen = shim_open;
  shim.xDelete = shim_delete;
  sqlite3_vfs_register(&shim, 1);
}

void power_record_start(power_record *record, const char *path) {
  install();
  memset(record, 0, sizeof *record);
  memset(&recorder, 0, sizeof recorder);
  recorder.record = record;
  for (int i = 0; i < POWER_FILES; i++) recorder.names[i] = POWER_NO_FILE;
  if (access(path, F_OK) != 0) return;
  bytes_load(&record->base, path);
  recorder.names[POWER_DATABASE] = record->inodes++;
}

void power_record_stop(void) {
  real_vfs->xSetSystemCall(real_vfs, "openDirectory", NULL);
  sqlite3_vfs_register(real_vfs, 1);
  recorder.record = NULL;
}

/* ---- The disk ----------------------------------------------------------- */

void power_disk_start(power_disk *disk, const power_record *record,
                      unsigned ignored) {
  memset(disk, 0, sizeof *disk);
  disk->record = record;
  disk->ignored = ignored;
  disk->files = allocated(calloc(record->inodes + 1, sizeof *disk->files));
  disk->pending = allocated(calloc(record->count + 1, sizeof *disk->pending));
  for (int i = 0; i < POWER_FILES; i++) disk->names[i] = POWER_NO_FILE;
  if (record->base.size == 0) return;
  bytes_copy(&disk->files[0], &record->base);
  disk->names[POWER_DATABASE] = 0;
}

void power_disk_free(power_disk *disk) {
  for (size_t i = 0; i < disk->record->inodes; i++) {
    bytes_free(&disk->files[i]);
  }
  free(disk->files);
  free(disk->pending);
}

static int concerns_folder(const power_event *event) {
  return event->kind == POWER_CREATE || event->kind == POWER_DELETE;
}

static void apply(power_bytes *bytes, const power_event *event) {
  if (event->kind == POWER_TRUNCATE) {
    bytes_resize(bytes, (size_t)event->at);
  } else {
    bytes_write(bytes, (size_t)event->at, event->data, (size_t)event->size);
  }
}

/* Whether this sync makes the earlier event sure. */
static int is_settled_by(const power_event *event, const power_event *sync) {
  if (sync->kind == POWER_SYNC_FOLDER) return concerns_folder(event);
  return !concerns_folder(event) && event->inode == sync->inode;
}

static void sync_happens(power_disk *disk, const power_event *sync) {
  size_t kept = 0;
  for (size_t i = 0; i < disk->pending_count; i++) {
    const power_event *event = &disk->record->events[disk->pending[i]];
    if (!is_settled_by(event, sync))
      disk->pending[kept++] = disk->pending[i];
    else if (event->kind == POWER_CREATE)
      disk->names[event->file] = event->inode;
    else if (event->kind == POWER_DELETE)
      disk->names[event->file] = POWER_NO_FILE;
    else
      apply(&disk->files[event->inode], event);
  }
  disk->pending_count = kept;
}

static int is_ignored(const power_disk *disk, const power_event *sync) {
  int what = sync->kind == POWER_SYNC_FOLDER ? POWER_FILES : (int)sync->file;
  return (disk->ignored >> what & 1) != 0;
}

const power_event *power_disk_step(power_disk *disk) {
  const power_event *event = &disk->record->events[disk->next];
  if (event->kind == POWER_SYNC || event->kind == POWER_SYNC_FOLDER) {
    if (!is_ignored(disk, event)) sync_happens(disk, event);
  } else if (event->kind != POWER_RETURNED) {
    disk->pending[disk->pending_count++] = disk->next;
  }
  disk->next++;
  return event;
}

/* ---- The cut ------------------------------------------------------------ */

/* Numbers from a seed (splitmix64). */
static uint64_t random_next(uint64_t *random) {
  uint64_t z = *random += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

static int random_percent(uint64_t *random, unsigned percent) {
  return random_next(random) % 100 < percent;
}

/* How a random cut deals with what is pending. Few, some or most of it are
** there, and it is torn or not: each by chance, so that all mixtures come. */
struct mixture {
  uint64_t random;
  unsigned kept; /* percent */
  unsigned torn;
  unsigned spoiled;
};

static struct mixture mixture_of(uint64_t seed) {
  static const unsigned kept[] = {10, 50, 90, 97};
  static const unsigned torn[] = {0, 0, 10, 50};
  static const unsigned spoiled[] = {0, 0, 0, 20};
  struct mixture m = {.random = seed};
  m.kept = kept[random_next(&m.random) % COUNT(kept)];
  m.torn = torn[random_next(&m.random) % COUNT(torn)];
  m.spoiled = spoiled[random_next(&m.random) % COUNT(spoiled)];
  return m;
}

/* Write each sector of it, or not, or rubbish into it. */
static void tear(power_bytes *bytes, const power_event *event,
                 struct mixture *m) {
  unsigned char rubbish[SECTOR];
  size_t end = (size_t)(event->at + event->size);
  size_t next;
  for (size_t at = (size_t)event->at; at < end; at = next) {
    const unsigned char *data = event->data + (at - (size_t)event->at);
    next = (at / SECTOR + 1) * SECTOR;
    if (next > end) next = end;
    if (random_percent(&m->random, m->spoiled)) {
      memset(rubbish, (int)(random_next(&m->random) & 0xff), sizeof rubbish);
      bytes_write(bytes, at, rubbish, next - at);
    } else if (random_percent(&m->random, 50)) {
      bytes_write(bytes, at, data, next - at);
    }
  }
}

static void apply_by_chance(power_bytes *bytes, const power_event *event,
                            struct mixture *m) {
  if (!random_percent(&m->random, m->kept)) return;
  if (event->kind == POWER_WRITE && random_percent(&m->random, m->torn)) {
    tear(bytes, event, m);
  } else {
    apply(bytes, event);
  }
}

/* Whether the i-th pending event, of a folder or (random ones are dealt with
** elsewhere) of a file, is there. */
static int survives(const power_cut *cut, size_t i, int folder,
                    struct mixture *m) {
  switch (cut->fate) {
  case POWER_NOTHING: return 0;
  case POWER_NO_DATA: return folder;
  case POWER_ALL: return 1;
  case POWER_ONLY: return folder || i == cut->chosen;
  case POWER_ALL_BUT: return i != cut->chosen;
  case POWER_RANDOM: break;
  }
  return random_percent(&m->random, m->kept);
}

/* The inode that a name has. Its steps come in order: when one is lost, so
** are those after it. */
static size_t name_after(const power_disk *disk, const power_cut *cut,
                         enum power_file file, struct mixture *m) {
  size_t inode = disk->names[file];
  for (size_t i = 0; i < disk->pending_count; i++) {
    const power_event *event = &disk->record->events[disk->pending[i]];
    if (!concerns_folder(event) || event->file != file) continue;
    if (!survives(cut, i, 1, m)) break;
    inode = event->kind == POWER_CREATE ? event->inode : POWER_NO_FILE;
  }
  return inode;
}

static void content_after(const power_disk *disk, const power_cut *cut,
                          size_t inode, struct mixture *m, power_bytes *bytes) {
  bytes_copy(bytes, &disk->files[inode]);
  for (size_t i = 0; i < disk->pending_count; i++) {
    const power_event *event = &disk->record->events[disk->pending[i]];
    if (concerns_folder(event) || event->inode != inode) continue;
    if (cut->fate == POWER_RANDOM) {
      apply_by_chance(bytes, event, m);
    } else if (survives(cut, i, 0, m)) {
      apply(bytes, event);
    }
  }
}

void power_image_make(power_image *image, const power_disk *disk,
                      const power_cut *cut) {
  struct mixture m = mixture_of(cut->seed);
  for (int i = 0; i < POWER_FILES; i++) {
    size_t inode = name_after(disk, cut, (enum power_file)i, &m);
    image->files[i].size = 0;
    image->there[i] = inode != POWER_NO_FILE;
    if (image->there[i]) {
      content_after(disk, cut, inode, &m, &image->files[i]);
    }
  }
}

static uint64_t hash_add(uint64_t hash, const power_bytes *bytes) {
  size_t at = 0;
  for (; at + 8 <= bytes->size; at += 8) {
    uint64_t word;
    memcpy(&word, bytes->data + at, sizeof word);
    hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 29;
  }
  for (; at < bytes->size; at++) {
    hash = (hash ^ bytes->data[at]) * 0x9E3779B97F4A7C15u;
  }
  return hash;
}

uint64_t power_image_hash(const power_image *image) {
  uint64_t hash = 1;
  for (int i = 0; i < POWER_FILES; i++) {
    uint64_t size = image->there[i] ? image->files[i].size : UINT64_MAX;
    hash = (hash ^ size) * 0xBF58476D1CE4E5B9u;
    hash ^= hash >> 31;
    if (image->there[i]) hash = hash_add(hash, &image->files[i]);
  }
  return hash;
}

void power_image_store(const power_image *image, const char *path) {
  char name[512];
  file_remove(path);
  for (int i = 0; i < POWER_FILES; i++) {
    if (!image->there[i]) continue;
    snprintf(name, sizeof name, "%s%s", path, suffixes[i]);
    bytes_store(&image->files[i], name);
  }
}

void power_image_free(power_image *image) {
  for (int i = 0; i < POWER_FILES; i++) bytes_free(&image->files[i]);
}
