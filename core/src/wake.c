/* SPDX-License-Identifier: MIT */
/*
** wake.c: signals and waiting, over the sidecar's board.
**
** A wake is a hint, the database is the truth: whoever waits looks after every
** wake, and after the fallback interval in any case.
**
** Whoever waits counts itself among the waiters, reads `seq`, looks at the
** database, and sleeps on `seq` as long as it has not changed. Whoever signals
** has committed; it adds to `seq`, and wakes if there are waiters. So either the
** look sees the commit or the sleep sees the new `seq`. core/model has this as a
** model that a checker explores.
**
** Waiters sleep by channel: a queue's name up to its first slash is hashed to
** one of 28 channels, a bit each, and the kernel wakes only those whose mask has
** the bit (FUTEX_WAKE_BITSET). A signal for n jobs wakes n waiters. That is right
** only if each of them can take any of these jobs, so each channel has a sign of
** the patterns that are waited for on it. When waiters with other patterns were
** there within the last seconds, a signal wakes all. Waiters announce
** themselves before each look, at least once in a fallback interval;
** announcements that are older than MIXED_SECONDS are forgotten. Whoever takes
** a channel over from a sign that was forgotten marks it as mixed first, for
** another may be about to announce the old one. Who was woken and cannot look
** wakes all whom the signal may have been for.
**
** `waiters` may be too high, never too low: a process that is killed while it
** waits leaves its part behind, until its slot, which counts it too, is buried.
** The order of the two counts sees to that.
*/
#include "internal.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MIXED_SECONDS 3

/* ------------------------------------------------------------------- futex */

/* Other processes have the word mapped, too: these are no private futexes. */
static long futex_wake(_Atomic uint32_t *word, int count, uint32_t mask) {
  return syscall(SYS_futex, word, FUTEX_WAKE_BITSET, count, NULL, NULL, mask);
}

/* Sleep while the word has that value. False when the time was over. The bitset
** form takes an absolute time. */
static bool futex_sleep(_Atomic uint32_t *word, uint32_t value, uint32_t mask,
                        int64_t microseconds) {
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  until.tv_sec += (time_t)(microseconds / 1000000);
  until.tv_nsec += (long)(microseconds % 1000000) * 1000;
  if (until.tv_nsec >= 1000000000) {
    until.tv_nsec -= 1000000000;
    until.tv_sec++;
  }
  return !syscall(SYS_futex, word, FUTEX_WAIT_BITSET, value, &until, NULL,
                  mask) ||
         errno == EAGAIN;
}

/* ---------------------------------------------------------------- channels */

/* FNV-1a (Fowler, Noll, Vo). */
static uint32_t hash_add(uint32_t hash, const char *data, size_t size) {
  for (size_t i = 0; i < size; i++)
    hash = (hash ^ (unsigned char)data[i]) * 16777619u;
  return hash;
}
#define HASH_START 2166136261u

/* So lanes share the channel of their prefix, and whoever waits for all of them
** needs one only. */
int wake_channel(const char *queue) {
  uint32_t hash = hash_add(HASH_START, queue, strcspn(queue, "/"));
  return (int)(hash % CHANNEL_QUEUES);
}

static uint32_t pattern_mask(const char *pattern) {
  if (!strcmp(pattern, DIBS_ALL)) return (1u << CHANNEL_QUEUES) - 1;
  return 1u << wake_channel(pattern);
}

/* ----------------------------------------------------------------- signals */

void wake_note(struct wakes *wakes, int channel, int count) {
  int sum = wakes->counts[channel] + count;
  wakes->mask |= 1u << channel;
  wakes->counts[channel] = (uint16_t)(sum > UINT16_MAX ? UINT16_MAX : sum);
}

void wake_note_all(struct wakes *wakes, int channel) {
  wakes->mask |= 1u << channel;
  wakes->all |= 1u << channel;
}

void wake_note_mail(struct wakes *wakes, int64_t holder) {
  for (int i = 0; i < wakes->mails; i++)
    if (wakes->mail[i] == holder) return;
  if (wakes->mails < MAILS) wakes->mail[wakes->mails++] = holder;
}

void wake_merge(struct wakes *wakes, struct wakes *from) {
  for (int i = 0; i < CHANNEL_COUNT; i++)
    if (from->counts[i]) wake_note(wakes, i, from->counts[i]);
  wakes->mask |= from->mask;
  wakes->all |= from->all;
  for (int i = 0; i < from->mails; i++) wake_note_mail(wakes, from->mail[i]);
  *from = (struct wakes){.mask = 0};
}

void wake_unnote(struct wakes *wakes, int channel, int64_t count) {
  if (wakes->counts[channel] > count) {
    wakes->counts[channel] = (uint16_t)(wakes->counts[channel] - count);
    return;
  }
  wakes->counts[channel] = 0;
  wakes->mask &= wakes->all | ~(1u << channel);
}

static uint32_t boot_seconds(void) {
  return (uint32_t)(time_since_boot() / 1000);
}

/* A time ahead of us is from before a reboot, or damage: long ago. */
static bool is_recent(uint32_t at, uint32_t now) {
  /* Another may have read the clock a moment later. */
  return at && at <= now + 1 && now + 1 - at <= MIXED_SECONDS + 1;
}

static bool channel_is_mixed(const struct channel *channel, uint32_t now) {
  return is_recent(atomic_load(&channel->mixed_at), now);
}

static void channels_wake(struct board *board, const struct wakes *wakes) {
  uint32_t all = wakes->all, now = boot_seconds();
  for (int i = 0; i < CHANNEL_COUNT; i++) {
    uint32_t bit = 1u << i;
    if (!(wakes->mask & bit) || (all & bit)) continue;
    const struct channel *channel = &board->channels[i];
    bool mixed = channel_is_mixed(channel, now);
    if (!mixed) futex_wake(&board->seq, wakes->counts[i], bit);
    /* One who can do nothing with it may have announced itself meanwhile, and
    ** been the one that woke. */
    if (mixed || channel_is_mixed(channel, boot_seconds())) all |= bit;
  }
  if (all) futex_wake(&board->seq, INT_MAX, all);
}

/* Ends of jobs are told only if somebody has asked for them lately. Who asks
** after this looks after the commit. */
static bool ends_are_heard(struct board *board) {
  return is_recent(atomic_load(&board->channels[CHANNEL_ENDED].sign_at),
                   boot_seconds());
}

static void mails_send(struct board *board, const struct wakes *wakes) {
  for (int i = 0; i < SLOT_COUNT && wakes->mails; i++)
    for (int j = 0; j < wakes->mails; j++)
      if (atomic_load(&board->slots[i].holder) == (uint64_t)wakes->mail[j])
        mail_send(&board->slots[i].mail, 1);
}

void wake_send(struct sidecar *sidecar, struct wakes *wakes) {
  if (sidecar && wakes->mask) sidecar_follow(sidecar);
  const uint32_t ended = 1u << CHANNEL_ENDED;
  struct board *board = sidecar ? atomic_load(&sidecar->board) : NULL;
  if (!wakes->mask && !wakes->mails) return;
  if (board) mails_send(board, wakes);
  if (board && wakes->mask & ended && !ends_are_heard(board))
    wakes->mask &= ~ended;
  if (board && wakes->mask) {
    atomic_fetch_add_explicit(&board->signals, 1, memory_order_relaxed);
    atomic_fetch_add(&board->seq, 1);
    if (atomic_load(&board->waiters)) channels_wake(board, wakes);
  }
  memset(wakes, 0, sizeof *wakes);
}

void wake_everyone(struct sidecar *sidecar) {
  if (!sidecar) return;
  struct board *board = atomic_load(&sidecar->board);
  atomic_fetch_add(&board->seq, 1);
  futex_wake(&board->seq, INT_MAX, 1u << CHANNEL_STOP);
}

bool wake_is_awaited(struct sidecar *sidecar, const char *queue) {
  struct board *board = atomic_load(&sidecar->board);
  const struct channel *channel = &board->channels[wake_channel(queue)];
  uint32_t now = boot_seconds();
  return atomic_load(&board->waiters) &&
         (is_recent(atomic_load(&channel->sign_at), now) ||
          is_recent(atomic_load(&channel->mixed_at), now));
}

/* ----------------------------------------------------------------- waiting */

static void channel_announce(struct channel *channel, uint32_t sign,
                             uint32_t now) {
  uint32_t other = atomic_load(&channel->sign);
  if (other != sign) {
    if (other) atomic_store(&channel->mixed_at, now);
    if (other && is_recent(atomic_load(&channel->sign_at), now)) return;
    if (!atomic_compare_exchange_strong(&channel->sign, &other, sign)) {
      atomic_store(&channel->mixed_at, now);
      return;
    }
  }
  atomic_store(&channel->sign_at, now);
}

static void wait_announce(struct wait *wait) {
  uint32_t now = boot_seconds();
  if (now == wait->announced) return;
  wait->announced = now;
  for (int i = 0; i < CHANNEL_QUEUES; i++)
    if (wait->mask & 1u << i)
      channel_announce(&wait->board->channels[i], wait->sign, now);
  if (wait->mask & 1u << CHANNEL_ENDED)
    atomic_store(&wait->board->channels[CHANNEL_ENDED].sign_at, now);
}

static void wait_count(struct wait *wait) {
  wait->board = atomic_load(&wait->sidecar->board);
  wait->announced = 0;
  wait_announce(wait);
  atomic_fetch_add(&wait->board->waiters, 1);
  wait->slot = sidecar_slot(wait->sidecar);
  if (wait->slot) atomic_fetch_add(&wait->slot->waiters, 1);
  wait->counted = true;
}

static void wait_uncount(struct wait *wait) {
  if (!wait->counted) return;
  if (wait->slot) atomic_fetch_sub(&wait->slot->waiters, 1);
  atomic_fetch_sub(&wait->board->waiters, 1);
  wait->counted = false;
}

void wait_start(struct wait *wait, struct sidecar *sidecar,
                const char *const *patterns, size_t count, uint32_t mask) {
  *wait = (struct wait){.sidecar = sidecar, .sign = HASH_START, .mask = mask};
  if (!sidecar) return;
  for (size_t i = 0; i < count; i++) {
    wait->mask |= pattern_mask(patterns[i]);
    wait->sign = hash_add(wait->sign, patterns[i], strlen(patterns[i]) + 1);
  }
  /* Who only looks must not be woken in place of one who claims. */
  wait->sign = hash_add(wait->sign, (const char *)&mask, sizeof mask);
  wait->mask |= 1u << CHANNEL_DUTY | 1u << CHANNEL_STOP;
  if (!wait->sign) wait->sign = 1;
  sidecar_hold(sidecar);
  wait_count(wait);
}

/* The sidecar may have been replaced meanwhile. */
void wait_look(struct wait *wait) {
  if (!wait->sidecar) return;
  if (sidecar_follow(wait->sidecar)) monitor_start(wait->sidecar);
  if (wait->board != atomic_load(&wait->sidecar->board)) {
    wait_uncount(wait);
    wait_count(wait);
  } else {
    wait_announce(wait);
  }
  wait->seen = atomic_load(&wait->board->seq);
}

bool wait_sleep(struct wait *wait, int64_t milliseconds) {
  struct board *board = wait->board;
  wait_announce(wait); /* the look may have taken long */
  bool woken =
      futex_sleep(&board->seq, wait->seen, wait->mask, milliseconds * 1000);
  if (woken) atomic_fetch_add_explicit(&board->wakes, 1, memory_order_relaxed);
  return woken;
}

void wait_rescued(const struct wait *wait) {
  if (wait->board) atomic_fetch_add(&wait->board->rescues, 1);
}

void wait_end(struct wait *wait, bool unheeded) {
  if (!wait->sidecar) return;
  wait_uncount(wait);
  if (unheeded && atomic_load(&wait->board->waiters))
    futex_wake(&wait->board->seq, INT_MAX, wait->mask & ~(1u << CHANNEL_STOP));
}

/* -------------------------------------------------------------------- mail */

_Atomic uint32_t *mail_word(struct sidecar *sidecar) {
  struct slot *slot = sidecar ? sidecar_slot(sidecar) : NULL;
  return slot ? &slot->mail : NULL;
}

void mail_wait(_Atomic uint32_t *word, uint32_t value, int64_t milliseconds) {
  futex_sleep(word, value, FUTEX_BITSET_MATCH_ANY, milliseconds * 1000);
}

void mail_send(_Atomic uint32_t *word, uint32_t amount) {
  atomic_fetch_add(word, amount);
  futex_wake(word, INT_MAX, FUTEX_BITSET_MATCH_ANY);
}

bool wake_timer(struct sidecar *sidecar, int64_t due) {
  if (!sidecar) return true;
  struct board *board = atomic_load(&sidecar->board);
  uint64_t taken = atomic_load(&board->timer);
  return taken != (uint64_t)due &&
         atomic_compare_exchange_strong(&board->timer, &taken, (uint64_t)due);
}

/* ------------------------------------------------------------------- turns */

uint32_t turn_see(struct sidecar *sidecar) {
  return atomic_load(&atomic_load(&sidecar->board)->turn);
}

/* `queued` is a flag: whoever sleeps sets it, whoever ends a turn takes it down,
** wakes one, and sets it again when there was one, because there may be more. */
void turn_wait(struct sidecar *sidecar, uint32_t seen, int64_t microseconds) {
  struct board *board = atomic_load(&sidecar->board);
  atomic_store(&board->queued, 1);
  futex_sleep(&board->turn, seen, FUTEX_BITSET_MATCH_ANY, microseconds);
}

void turn_end(struct sidecar *sidecar) {
  if (!sidecar) return;
  struct board *board = atomic_load(&sidecar->board);
  atomic_fetch_add(&board->turn, 1);
  atomic_fetch_add_explicit(&board->writes, 1, memory_order_relaxed);
  if (atomic_load(&board->queued) && atomic_exchange(&board->queued, 0) &&
      futex_wake(&board->turn, 1, FUTEX_BITSET_MATCH_ANY) > 0)
    atomic_store(&board->queued, 1);
}
