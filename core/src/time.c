/* SPDX-License-Identifier: MIT */
/*
** time.c: clocks, and durations and times as people type and read them.
**
** Days are turned into dates by counting from 1 March of year 0, so that the
** leap day is the last of its year (the proleptic Gregorian calendar repeats
** every 400 years, or 146,097 days).
*/
#include "internal.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DAY 86400000 /* ms */

static int64_t clock_read(clockid_t id) {
  struct timespec now;
  clock_gettime(id, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int64_t time_now(void) {
  return clock_read(CLOCK_REALTIME);
}

int64_t time_monotonic(void) {
  return clock_read(CLOCK_MONOTONIC);
}

int64_t time_add(int64_t time, int64_t duration) {
  if (duration > TIME_MAX || time > TIME_MAX - duration) return TIME_MAX;
  return time + duration;
}

int64_t time_between(int64_t from, int64_t to) {
  if (from == DIBS_UNSET || to == DIBS_UNSET || to < from) return 0;
  return to - from;
}

/* Milliseconds of a unit's name; 0 for an unknown one. */
static double unit_size(const char *unit) {
  static const struct {
    const char *name;
    double size;
  } units[] = {{"", 1e3},  {"ms", 1},   {"s", 1e3},
               {"m", 6e4}, {"h", 36e5}, {"d", 864e5}};
  for (size_t i = 0; i < sizeof units / sizeof *units; i++)
    if (!strcmp(unit, units[i].name)) return units[i].size;
  return 0;
}

int dibs_parse_duration(const char *text, int64_t *milliseconds) {
  if (!text || !milliseconds) return DIBS_INVALID;
  size_t digits = strspn(text, "0123456789.");
  if (!digits || digits > 30 || !isdigit((unsigned char)text[0]))
    return DIBS_INVALID;
  if (text[digits - 1] == '.') return DIBS_INVALID;
  double value;
  char number[32];
  memcpy(number, text, digits);
  number[digits] = 0;
  double size = unit_size(text + digits);
  if (!real_parse(number, &value) || size <= 0 ||
      value * size > (double)TIME_MAX)
    return DIBS_INVALID;
  *milliseconds = (int64_t)(value * size + 0.5);
  return DIBS_OK;
}

char *duration_format(int64_t milliseconds, char text[DURATION_SIZE]) {
  static const struct {
    int64_t size;
    const char *name;
  } units[] = {{DAY, "d"}, {3600000, "h"}, {60000, "m"}, {1000, "s"}};
  for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
    if (milliseconds < units[i].size || milliseconds % units[i].size) continue;
    snprintf(text, DURATION_SIZE, "%lld%s",
             (long long)(milliseconds / units[i].size), units[i].name);
    return text;
  }
  long long seconds = (long long)milliseconds / 1000;
  if (seconds)
    snprintf(text, DURATION_SIZE, "%lld.%03llds", seconds,
             (long long)milliseconds % 1000);
  else
    snprintf(text, DURATION_SIZE, "%lldms", (long long)milliseconds);
  return text;
}

/* Days from 1970-01-01 to a date; counted from the year -400, so that nothing
** is negative. */
static int64_t date_days(int64_t year, int month, int day) {
  year += month <= 2 ? 399 : 400;
  int64_t shifted = (month + 9) % 12; /* March is 0 */
  return year * 365 + year / 4 - year / 100 + year / 400 +
         (153 * shifted + 2) / 5 + day - 1 - 719468 - 146097;
}

static int month_days(int year, int month) {
  static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
  return month == 2 && leap ? 29 : days[month - 1];
}

/* `count` digits at *at, which moves on; -1 when they are not there. */
static int digits_read(const char **at, int count) {
  int value = 0;
  for (int i = 0; i < count; i++, (*at)++) {
    if (!isdigit((unsigned char)**at)) return -1;
    value = value * 10 + (**at - '0');
  }
  return value;
}

static bool char_read(const char **at, const char *allowed) {
  if (!**at || !strchr(allowed, **at)) return false;
  (*at)++;
  return true;
}

/* ".250" in milliseconds; further digits are cut off. */
static int64_t fraction_read(const char **at) {
  int64_t value = 0, unit = 100;
  if (!char_read(at, ".")) return 0;
  if (!isdigit((unsigned char)**at)) return -1;
  for (; isdigit((unsigned char)**at); (*at)++, unit /= 10)
    value += (**at - '0') * unit;
  return value;
}

/* "Z" or "+02:00" in milliseconds. */
static bool offset_read(const char **at, int64_t *offset) {
  *offset = 0;
  if (char_read(at, "Zz")) return true;
  int64_t sign = **at == '-' ? -1 : 1;
  if (!char_read(at, "+-")) return false;
  int hours = digits_read(at, 2);
  if (hours < 0 || hours > 23 || !char_read(at, ":")) return false;
  int minutes = digits_read(at, 2);
  if (minutes < 0 || minutes > 59) return false;
  *offset = sign * (hours * 60 + minutes) * 60000;
  return true;
}

/* "2026-01-31" in days since 1970. */
static bool date_read(const char **at, int64_t *days) {
  int year = digits_read(at, 4);
  if (year < 0 || !char_read(at, "-")) return false;
  int month = digits_read(at, 2);
  if (month < 1 || month > 12 || !char_read(at, "-")) return false;
  int day = digits_read(at, 2);
  if (day < 1 || day > month_days(year, month)) return false;
  *days = date_days(year, month, day);
  return true;
}

/* "12:00:00.250" in milliseconds. A leap second is taken for the next. */
static bool clock_parse(const char **at, int64_t *milliseconds) {
  int hour = digits_read(at, 2);
  if (hour < 0 || hour > 23 || !char_read(at, ":")) return false;
  int minute = digits_read(at, 2);
  if (minute < 0 || minute > 59 || !char_read(at, ":")) return false;
  int second = digits_read(at, 2);
  if (second < 0 || second > 60) return false;
  int64_t fraction = fraction_read(at);
  if (fraction < 0) return false;
  int64_t seconds = (int64_t)hour * 3600 + (int64_t)minute * 60 + second;
  *milliseconds = seconds * 1000 + fraction;
  return true;
}

int dibs_parse_time(const char *text, int64_t *milliseconds) {
  int64_t days, time, offset;
  if (!text || !milliseconds) return DIBS_INVALID;
  const char *at = text;
  if (!date_read(&at, &days) || !char_read(&at, "Tt ") ||
      !clock_parse(&at, &time) || !offset_read(&at, &offset) || *at)
    return DIBS_INVALID;
  int64_t value = days * DAY + time - offset;
  if (value > TIME_MAX) return DIBS_INVALID;
  *milliseconds = value;
  return DIBS_OK;
}

char *dibs_format_time(int64_t milliseconds, char text[DIBS_TIME_SIZE]) {
  const int64_t first = -62167219200000; /* 0000-01-01 */
  if (milliseconds < first) milliseconds = first;
  if (milliseconds > TIME_MAX) milliseconds = TIME_MAX;
  int64_t days = milliseconds / DAY, rest = milliseconds % DAY;
  if (rest < 0) {
    rest += DAY;
    days--;
  }
  int64_t from = days + 719468 + 146097; /* 1 March of a year -400 */
  int64_t era = from / 146097, within = from % 146097;
  int64_t year =
      (within - within / 1460 + within / 36524 - within / 146096) / 365;
  int64_t day = within - (365 * year + year / 4 - year / 100);
  int64_t shifted = (5 * day + 2) / 153;
  int64_t month = shifted < 10 ? shifted + 3 : shifted - 9;
  year += (era - 1) * 400 + (month <= 2);
  /* The remainders change nothing, but tell the compiler that it fits. */
  snprintf(text, DIBS_TIME_SIZE, "%04u-%02u-%02uT%02u:%02u:%02u.%03uZ",
           (unsigned)year % 10000, (unsigned)month % 100,
           (unsigned)(day - (153 * shifted + 2) / 5 + 1) % 100,
           (unsigned)(rest / 3600000) % 100, (unsigned)(rest / 60000) % 60,
           (unsigned)(rest / 1000) % 60, (unsigned)rest % 1000);
  return text;
}
