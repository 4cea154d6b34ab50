/* SPDX-License-Identifier: MIT */
/*
** payload.c: the payload that a command line gives: an argument, a file, or
** base64.
**
** It is read in two steps. The first needs no database, so that a file that
** cannot be read does not make one; the second has the core decode base64.
*/
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

static int64_t payload_limit(const struct cli *cli) {
  return cli_has(cli, OPTION_MAX_PAYLOAD) ? cli_number(cli, OPTION_MAX_PAYLOAD)
                                          : DIBS_PAYLOAD_MAX;
}

/* Make room for more in a buffer. Returns 0 or an exit code. */
static int grow(char **memory, size_t *room) {
  size_t more = *room ? *room * 2 : 65536;
  char *grown = realloc(*memory, more);
  if (grown == NULL) return cli_error(DIBS_NOMEM, "out of memory");
  *memory = grown;
  *room = more;
  return 0;
}

/* Read a whole file, a byte beyond the limit at most. */
static int read_all(int fd, const char *name, int64_t limit, char **memory,
                    size_t *size) {
  size_t room = 0;
  for (*size = 0; (int64_t)*size <= limit;) {
    if (*size == room) {
      int code = grow(memory, &room);
      if (code) return code;
    }
    ssize_t got = read(fd, *memory + *size, room - *size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      return cli_error(DIBS_IO, "reading %s: %s", name, strerror(errno));
    if (got == 0) return 0;
    *size += (size_t)got;
  }
  return cli_error(DIBS_TOO_BIG,
                   "%s is larger than the payload limit of %" PRId64
                   " bytes; --max-payload changes it",
                   name, limit);
}

static int read_file(struct cli *cli, struct payload *payload) {
  const char *name = cli_text(cli, OPTION_FILE);
  int is_stdin = strcmp(name, "-") == 0;
  int fd = is_stdin ? STDIN_FILENO : open(name, O_RDONLY | O_CLOEXEC);
  size_t size = 0;
  if (fd < 0)
    return cli_usage(cli, "--file \"%s\" cannot be opened: %s", name,
                     strerror(errno));
  int code = read_all(fd, is_stdin ? "standard input" : name,
                      payload_limit(cli), &payload->memory, &size);
  if (!is_stdin) (void)close(fd);
  const char *data = payload->memory ? payload->memory : "";
  payload->value = cli_has(cli, OPTION_BYTES) ? dibs_bytes(data, size)
                                              : dibs_json_sized(data, size);
  return code;
}

/* Let the core read base64, as it does in a line of --jobs. */
static int read_base64(const struct cli *cli, dibs_db *db,
                       struct payload *payload) {
  char *json = NULL;
  size_t size;
  FILE *file = open_memstream(&json, &size);
  if (file == NULL) return cli_error(DIBS_NOMEM, "out of memory");
  (void)fputs("{\"payload_base64\":", file);
  print_json_string(file, cli_text(cli, OPTION_BASE64));
  (void)fputc('}', file);
  (void)fclose(file);
  int status = dibs_parse_job(db, json, size, &payload->parsed);
  free(json);
  if (status == DIBS_INVALID)
    return cli_usage(cli, "--base64 \"%s\" is no base64",
                     cli_text(cli, OPTION_BASE64));
  if (status != DIBS_OK) return cli_db_error(db);
  payload->value = payload->parsed->job.payload;
  return 0;
}

int cli_payload_check(const struct cli *cli, const char *text) {
  int count =
      (text != NULL) + cli_has(cli, OPTION_FILE) + cli_has(cli, OPTION_BASE64);
  if (count > 1)
    return cli_usage(cli, "give one of PAYLOAD, --file and --base64");
  return 0;
}

int cli_payload_read(struct cli *cli, const char *text,
                     struct payload *payload) {
  if (cli_has(cli, OPTION_FILE)) return read_file(cli, payload);
  if (text == NULL) return 0;
  payload->value = cli_has(cli, OPTION_BYTES) ? dibs_bytes(text, strlen(text))
                                              : dibs_json(text);
  return 0;
}

int cli_payload_decode(const struct cli *cli, dibs_db *db,
                       struct payload *payload) {
  return cli_has(cli, OPTION_BASE64) ? read_base64(cli, db, payload) : 0;
}

void cli_payload_hint(const struct cli *cli, const dibs_db *db) {
  if (strstr(dibs_error(db), "payload is not JSON") == NULL) return;
  if (cli_has(cli, OPTION_JOBS)) return;
  cli_note(cli_has(cli, OPTION_LINES)
               ? "--bytes takes each line as it is"
               : "in a shell JSON wants single quotes, as '{\"to\":\"ann\"}'; "
                 "--bytes takes anything as it is");
}

void cli_payload_free(struct payload *payload) {
  free(payload->memory);
  dibs_parsed_job_free(payload->parsed);
}
