/* SPDX-License-Identifier: MIT */
/*
** faults_power.h: power cuts. A VFS records what happens to the files of one
** database; a disk is then led through that record, and can be cut off at any
** point of it.
**
** What a cut leaves is what SQLite assumes of a disk, and no better:
**
**   - what was written before the last sync of a file is there;
**   - of what was written after it, any part may be there: what came later
**     without what came earlier, single sectors of a write, or rubbish in a
**     sector that was being written. What lies beside a write is not touched
**     (SQLITE_IOCAP_POWERSAFE_OVERWRITE);
**   - a file that was made or deleted is so for sure once its folder was
**     synced. Until then, each name may stand at any of its steps; the files
**     are known apart, and so an old journal can come back beside a new WAL.
**
** The -shm file is not on the disk: SQLite makes it anew.
*/
#ifndef DIBS_FAULTS_POWER_H
#define DIBS_FAULTS_POWER_H

#include <stddef.h>
#include <stdint.h>

/* ---- The record --------------------------------------------------------- */

enum power_file { POWER_DATABASE, POWER_WAL, POWER_JOURNAL, POWER_FILES };

enum power_kind {
  POWER_CREATE,
  POWER_DELETE,
  POWER_WRITE,
  POWER_TRUNCATE,
  POWER_SYNC,
  POWER_SYNC_FOLDER,
  POWER_RETURNED /* a mark of the test: an operation has returned */
};

typedef struct power_event {
  enum power_kind kind;
  enum power_file file;
  size_t inode;        /* which of the files that had this name */
  int64_t at;          /* write: the offset; truncate: the new size */
  int64_t size;        /* write: of the data */
  unsigned char *data; /* write */
} power_event;

typedef struct power_bytes {
  unsigned char *data;
  size_t size;
  size_t room;
} power_bytes;

typedef struct power_record {
  power_event *events;
  size_t count;
  size_t room;
  size_t inodes;    /* how many files there ever were */
  power_bytes base; /* the database at the beginning; it is inode 0 */
} power_record;

/* Record what connections that are opened from now on by SQLite's default VFS
** do to the database at `path`, which nobody has open. */
void power_record_start(power_record *record, const char *path);

/* Mark that an operation has returned. */
void power_record_returned(void);

/* The default VFS is the plain one again. */
void power_record_stop(void);
void power_record_free(power_record *record);

/* The event in words, in `text`. */
void power_event_describe(const power_event *event, char *text, size_t size);

/* ---- The disk ----------------------------------------------------------- */

#define POWER_NO_FILE SIZE_MAX

typedef struct power_disk {
  const power_record *record;
  size_t next;               /* events before it have happened */
  unsigned ignored;          /* bits 1 << enum power_file: a disk that lies
                             ** about syncs of these; POWER_FILES: of folders */
  power_bytes *files;        /* by inode: what is there for sure */
  size_t names[POWER_FILES]; /* the inode that a name has for sure */
  size_t *pending;           /* events that may be lost, in order */
  size_t pending_count;
} power_disk;

void power_disk_start(power_disk *disk, const power_record *record,
                      unsigned ignored);

/* Let the next event happen. */
const power_event *power_disk_step(power_disk *disk);
void power_disk_free(power_disk *disk);

/* ---- The cut ------------------------------------------------------------ */

enum power_fate {
  POWER_NOTHING, /* all that may be lost is */
  POWER_NO_DATA, /* the same, but names are as they were last */
  POWER_ALL,     /* nothing is lost */
  POWER_ONLY,    /* of the data only the chosen pending event is there */
  POWER_ALL_BUT, /* the chosen pending event is lost */
  POWER_RANDOM   /* any part of it, torn */
};

typedef struct power_cut {
  enum power_fate fate;
  size_t chosen; /* index among the pending */
  uint64_t seed;
} power_cut;

/* What is found after a cut. */
typedef struct power_image {
  power_bytes files[POWER_FILES];
  int there[POWER_FILES];
} power_image;

/* `image` may have been used before, or be all zeroes. */
void power_image_make(power_image *image, const power_disk *disk,
                      const power_cut *cut);

/* A number that differs when the image does. */
uint64_t power_image_hash(const power_image *image);

/* Put it at `path`, in place of all files of a database there. */
void power_image_store(const power_image *image, const char *path);
void power_image_free(power_image *image);

#endif
