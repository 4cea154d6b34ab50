/* SPDX-License-Identifier: MIT */
/*
** wake.pml: signals and waiting (src/wake.c) as a model for spin. README.md
** says what is checked and what is assumed, ./run holds the checks.
**
** A step is one access to a shared word, one system call or one transaction;
** the steps of all processes come in any order. The kernel may wake the
** sleepers of a channel in any order, too.
**
** A check is made by definitions:
**
**   SET0 SET1 SET2     queues of waiter 0, 1 and 2, a bit each; without SET2
**                      there are two waiters
**   QUEUE0 JOBS0       what signaller 0 commits: so many jobs of that queue;
**   QUEUE1 JOBS1 ...   likewise signallers 1 and 2, if there are to be any
**   ONE_CHANNEL        both queues hash to channel 0; else channel = queue
**   STAMPS             waiters announce themselves, channels may be mixed; else
**                      the channels in the bits of MIXED are, as if by stamps
**   AT_ONCE            an announcement is one step, for fewer states
**   FALLBACK           a sleep may end by itself, as by its timeout
**   GIVE_UPS           how often a waiter leaves without a claim: interrupted,
**                      out of time, or because the database gave an error
**   KILL               one process, whichever, is killed, whenever
**   EVENTUALLY         check that jobs are claimed in the end, by fair steps
**   WRONG_...          a mistake, which the check is to find
*/

#define QUEUES 2
#define CHANNELS 2

#ifdef SET2
#define WAITERS 3
#else
#define WAITERS 2
#define SET2 0
#endif
#define LAST (WAITERS - 1)

#ifndef MIXED
#define MIXED 0
#endif
#ifndef GIVE_UPS
#define GIVE_UPS 0
#endif

#define set(w) ((w) == 0 -> SET0 : ((w) == 1 -> SET1 : SET2))
#define matches(w, q) (set(w) & (1 << (q)))
#ifdef ONE_CHANNEL
#define mask(w) 1
#define channel_of(q) 0
#else
#define mask(w) set(w)
#define channel_of(q) (q)
#endif
#define EVERYBODY 255

/* --------------------------------------------------------- the shared words */

byte seq;
short waiters;
byte count[WAITERS];  /* the part of `waiters` that is in a process's slot */
byte sign[CHANNELS];  /* the set that was announced; 0: none yet */

/*
** Of a stamp we keep what tells fresh from stale. It is fresh as long as a lap
** goes on that was begun before its setter was through with announcing itself;
** a lap is a waiter's time from one announcement to its next or its leaving. It
** is fresh as well until a signaller is done that has woken during such a lap.
** Otherwise it may be taken for either. So nothing is left out that can
** happen while an announcement, a lap and a signaller's run, one after the
** other, take less than the time a stamp is good for.
*/
#define SIGN_AT(c) (c)
#define MIXED_AT(c) (CHANNELS + (c))
#define may_be_fresh(stamp) true
#define may_be_stale(stamp) (outlives[stamp] == 0)
byte outlives[2 * CHANNELS]; /* whose laps and runs it outlives, as bits */
byte setters[2 * CHANNELS];  /* who has set it and goes on announcing */

/* ------------------------------------------------------------- the database */

byte claimable[QUEUES];

/* -------------------------------------- what the kernel and the checks know */

mtype = { away, going, looked, asleep, woken };
mtype place[WAITERS];     /* looked: and found nothing, so it goes to sleep */
byte saw[WAITERS];        /* seq, as it was before the look */
byte signals;             /* after whose commit the wake is not done yet */
byte signallers;          /* who is not done, as bits */
byte give_ups = GIVE_UPS; /* that may still come */
bool dead[WAITERS + 3];

/* Behind that, no job can be lost any more, so it need not be explored. */
#define something_is_to_come (signallers || claimable[0] || claimable[1])

#define sleeps(w, q) (place[w] == asleep && matches(w, q))
#define will_look(w, q) \
  (matches(w, q) && (place[w] == going || place[w] == woken || \
                     (place[w] == looked && saw[w] != seq)))

/* A job is there, one sleeps who could take it, and nobody is on the way. */
#define is_lost(q) \
  (claimable[q] && (sleeps(0, q) || sleeps(1, q) || sleeps(LAST, q)) && \
   !signals && \
   !will_look(0, q) && !will_look(1, q) && !will_look(LAST, q))

/* ------------------------------------------------------------------- stamps */

#define lap_of(w) ((place[w] != away) << (w))

inline stamp(who, which) {
  d_step {
    setters[which] = setters[which] | (1 << (who));
    outlives[which] = lap_of(0) | lap_of(1) | lap_of(LAST)
  }
}

inline end_lap(who) {
  outlives[0] = outlives[0] & ~(1 << (who));
  outlives[1] = outlives[1] & ~(1 << (who));
  outlives[2] = outlives[2] & ~(1 << (who));
  outlives[3] = outlives[3] & ~(1 << (who))
}

inline begin_lap(who) {
  d_step {
    end_lap(who);
    outlives[0] = outlives[0] | ((setters[0] > 0) << (who));
    outlives[1] = outlives[1] | ((setters[1] > 0) << (who));
    outlives[2] = outlives[2] | ((setters[2] > 0) << (who));
    outlives[3] = outlives[3] | ((setters[3] > 0) << (who))
  }
}

inline end_announcement(who) {
  setters[0] = setters[0] & ~(1 << (who));
  setters[1] = setters[1] & ~(1 << (who));
  setters[2] = setters[2] & ~(1 << (who));
  setters[3] = setters[3] & ~(1 << (who))
}

/* When the last signaller is done, nobody reads stamps any more. */
inline forget_stamps() {
  outlives[0] = 0;
  outlives[1] = 0;
  outlives[2] = 0;
  outlives[3] = 0;
  setters[0] = 0;
  setters[1] = 0;
  setters[2] = 0;
  setters[3] = 0
}

/* --------------------------------------------------------------- announcing */

/* As channel_announce() does it. */
inline announce_on(who, channel) {
  if
  :: !(mask(who) & (1 << (channel)))
  :: else ->
     if
     :: sign[channel] == set(who) -> stamp(who, SIGN_AT(channel))
     :: atomic { sign[channel] != set(who) -> other = sign[channel] }
#ifndef WRONG_TAKEOVER_UNMARKED
        if
        :: other -> stamp(who, MIXED_AT(channel))
        :: !other
        fi;
#endif
        if
        :: other && may_be_fresh(SIGN_AT(channel)) ->
#ifdef WRONG_TAKEOVER_UNMARKED
           stamp(who, MIXED_AT(channel))
#endif
        :: !other || may_be_stale(SIGN_AT(channel)) ->
#ifdef WRONG_TAKEOVER_BY_STORE
           sign[channel] = set(who);
           stamp(who, SIGN_AT(channel))
#else
           if
           :: atomic { sign[channel] == other -> sign[channel] = set(who) }
              stamp(who, SIGN_AT(channel))
           :: sign[channel] != other -> stamp(who, MIXED_AT(channel))
           fi
#endif
        fi;
        other = 0
     fi
  fi
}

inline announce(who) {
  announce_on(who, 0);
#ifndef ONE_CHANNEL
  announce_on(who, 1)
#endif
}

/* --------------------------------------------------------------- the kernel */

#define may_wake(w, bits) (place[w] == asleep && (mask(w) & (bits)))

inline futex_wake(bits, most) {
  atomic {
    left = most;
    do
    :: left && may_wake(0, bits) -> place[0] = woken; left--
    :: left && may_wake(1, bits) -> place[1] = woken; left--
    :: left && may_wake(LAST, bits) -> place[LAST] = woken; left--
    :: else -> break
    od;
    left = 0
  }
}

/* --------------------------------------------------------------- signalling */

/* A signaller counts as one who has woken during a lap; see the stamps. */
inline outlive_run(channel) {
  if
  :: outlives[MIXED_AT(channel)] ->
     outlives[MIXED_AT(channel)] =
       outlives[MIXED_AT(channel)] | (1 << (WAITERS + i))
  :: !outlives[MIXED_AT(channel)]
  fi
}

inline wake_channel(channel, jobs) {
#if defined(WRONG_MIXED_IGNORED)
  futex_wake(1 << (channel), jobs)
#elif !defined(STAMPS)
  futex_wake(1 << (channel), (MIXED & (1 << (channel)) -> EVERYBODY : jobs))
#else
  if
  :: may_be_fresh(MIXED_AT(channel)) -> futex_wake(1 << (channel), EVERYBODY)
  :: may_be_stale(MIXED_AT(channel)) ->
     atomic { futex_wake(1 << (channel), jobs); outlive_run(channel) }
#ifndef WRONG_MIXED_READ_ONCE
     /* Who announced itself since, and slept, may have been the one. */
     if
     :: may_be_fresh(MIXED_AT(channel)) -> futex_wake(1 << (channel), EVERYBODY)
     :: may_be_stale(MIXED_AT(channel))
     fi
#endif
  fi
#endif
}

proctype signaller(byte i; byte q; byte n) {
  byte left;
  bool nobody_waits;
  {
#ifdef WRONG_WAITERS_READ_FIRST
    nobody_waits = (waiters == 0);
#endif
    atomic {
#ifndef WRONG_SIGNAL_BEFORE_COMMIT
      claimable[q] = claimable[q] + n;
#endif
      signals++
    }
    seq++;
#ifndef WRONG_WAITERS_READ_FIRST
    nobody_waits = (waiters == 0);
#endif
    if
    :: nobody_waits
    :: !nobody_waits -> wake_channel(channel_of(q), n)
    fi;
    atomic {
#ifdef WRONG_SIGNAL_BEFORE_COMMIT
      claimable[q] = claimable[q] + n;
#endif
      nobody_waits = false;
      signals--;
      signallers = signallers & ~(1 << i);
      end_lap(WAITERS + i);
      if
      :: signallers == 0 -> forget_stamps()
      :: signallers > 0
      fi
    }
  }
#ifdef KILL
  unless { dead[WAITERS + i] }
#endif
}

/* ------------------------------------------------------------------ waiting */

#define can_take(w, q) (matches(w, q) && claimable[q])
#define can_take_any(w) (can_take(w, 0) || can_take(w, 1))

inline enter(who) {
  d_step {
    is_counted = true;
    waiters++;
    count[who]++
  }
}

inline leave(who) {
  d_step {
    is_counted = false;
    count[who]--;
    waiters--
  }
}

/* Part of the step in which the look or the claim finds a job, or does not. */
inline heed(who) {
  has_wake = false;
  saw[who] = 0;
  place[who] = away
}

inline find_nothing(who) {
  has_wake = false;
  place[who] = looked
}

/* Part of a step, for spin lets others in at a goto. */
inline give_up(who) {
  give_ups--;
  saw[who] = 0;
  place[who] = away;
  if
  :: has_wake ->
     has_wake = false;
     signals++;
     goto pass
  :: !has_wake -> goto done
  fi
}

/* It was woken, and leaves without having been able to take what there was. The
** wake may have come by any of its channels. Others may sleep on them who do
** not match the job, and the channel that it came by need not be mixed: so it
** wakes all. */
inline pass_on(who) {
#ifndef WRONG_NOT_PASSED
  if
  :: waiters == 0
  :: waiters > 0 ->
#ifdef WRONG_PASSED_TO_ONE
     futex_wake(mask(who), 1)
#else
     futex_wake(mask(who), EVERYBODY)
#endif
  fi;
#endif
  signals--
}

proctype waiter(byte w) {
  bool is_counted;
  bool has_wake; /* it was woken, and has not looked since */
  byte left;
  byte other;
  byte found;
  {
    place[w] = going;
#if defined(STAMPS) && defined(WRONG_ANNOUNCED_ONCE)
    announce(w);
#endif
lap:
end_of_story:
    if
    :: something_is_to_come
    fi;
#if defined(STAMPS) && defined(WRONG_ANNOUNCED_ONCE)
    atomic { begin_lap(w) }
#elif defined(STAMPS)
    if
#ifdef AT_ONCE
    :: atomic { signallers -> begin_lap(w); announce(w) }
#else
    :: atomic { signallers -> begin_lap(w) }
       announce(w)
#endif
    /* It has done so in the same second; or it is of no use any more. */
    :: is_counted || !signallers
    fi;
#endif
    if
    :: !is_counted -> enter(w)
    :: is_counted
    fi;
    atomic {
#ifndef WRONG_SEQ_READ_AFTER_LOOK
      saw[w] = seq;
#endif
      end_announcement(w)
    }
    /* The look. */
    atomic {
      if
      :: can_take(w, 0) -> found = 0
      :: can_take(w, 1) -> found = 1
      :: !can_take_any(w) -> find_nothing(w); goto sleep
      :: give_ups -> give_up(w)
      fi;
#ifdef WRONG_HEEDED_BY_LOOK
      has_wake = false
#endif
    }
    /* The claim; what the look found may be gone, and other jobs be there. */
    atomic {
      if
#ifdef WRONG_CLAIMS_WHAT_IT_FOUND
      :: can_take(w, found) -> claimable[found]--; heed(w); goto done
      :: !can_take(w, found) -> find_nothing(w); goto sleep
#else
      :: can_take(w, 0) -> claimable[0]--; found = 0; heed(w); goto done
      :: can_take(w, 1) -> claimable[1]--; found = 0; heed(w); goto done
      :: !can_take_any(w) -> found = 0; find_nothing(w); goto sleep
#endif
      :: give_ups -> found = 0; give_up(w)
      fi
    }
sleep:
#ifdef WRONG_SEQ_READ_AFTER_LOOK
    saw[w] = seq;
#endif
#ifdef WRONG_LEFT_BEFORE_SLEEP
    leave(w);
#endif
    /* The kernel compares and queues at once. */
    atomic {
      if
#ifdef WRONG_SLEEPS_UNCHECKED
      :: saw[w] = 0; place[w] = asleep
#else
      :: seq == saw[w] -> saw[w] = 0; place[w] = asleep
      :: seq != saw[w] -> saw[w] = 0; place[w] = going; goto lap
#endif
      fi
    }
end_asleep:
    atomic {
      if
      :: place[w] == woken ->
         place[w] = going;
         has_wake = give_ups > 0
#ifdef FALLBACK
      :: place[w] == asleep -> place[w] = going
#endif
      :: place[w] == asleep && give_ups -> give_up(w)
      fi
    }
    goto lap;
pass:
    atomic { end_lap(w); leave(w) }
    pass_on(w);
    goto work;
done:
    atomic { end_lap(w); leave(w) }
    /* It works on the job, or on something else, for as long as it likes. */
work:
    place[w] = going;
    goto lap
  }
#ifdef KILL
  unless { dead[w] }
#endif
}

/* --------------------------------------------------------------- the checks */

/* Never comes to its second step. */
proctype watch() {
end:
  atomic { is_lost(0) || is_lost(1) -> assert(false) }
}

#ifdef EVENTUALLY
ltl claimed { always eventually (claimable[0] == 0 && claimable[1] == 0) }
#endif

#ifdef KILL
inline kill_waiter(victim) {
  d_step { dead[victim] = true; place[victim] = away }
  /* Its slot is buried later, or never. */
  if
  :: true
  :: d_step { waiters = waiters - count[victim]; count[victim] = 0 }
  fi
}

inline kill_signaller(victim) {
  d_step {
    signallers & (1 << (victim)) ->
    dead[WAITERS + victim] = true;
    signallers = signallers & ~(1 << (victim))
  }
}

proctype killer() {
end:
  if
  :: kill_waiter(0)
  :: kill_waiter(1)
  :: kill_signaller(0)
  :: kill_signaller(1)
  fi
}
#endif

inline start_signaller(number, queue, jobs) {
  signallers = signallers | (1 << (number));
  run signaller(number, queue, jobs)
}

init {
  atomic {
    place[0] = away;
    place[1] = away;
    place[LAST] = away;
    run waiter(0);
    run waiter(1);
#if WAITERS == 3
    run waiter(2);
#endif
    start_signaller(0, QUEUE0, JOBS0);
#ifdef QUEUE1
    start_signaller(1, QUEUE1, JOBS1);
#endif
#ifdef QUEUE2
    start_signaller(2, QUEUE2, JOBS2);
#endif
#ifdef KILL
    run killer()
#endif
#ifndef EVENTUALLY
    run watch()
#endif
  }
}
