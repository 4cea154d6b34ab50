/* SPDX-License-Identifier: MIT */
/*
** count.pml: the count of the waiters (src/wake.c) and the slots of processes
** (src/sidecar.c), as a model for spin: whoever signals may skip the wake when
** `waiters` is 0, so it must never be lower than the number of those who wait.
** wake.pml has what the count is for.
**
** There are three processes, the second with two threads, and two slots. They
** wait, and all but the first bury slots of the dead, in turn and as they like.
** As many as KILLS of them are killed, whenever. The lock of a slot belongs to
** a process, so it keeps no thread of the same process out; the kernel drops it
** when the process dies.
**
** WRONG_... is a mistake that the check is to find.
*/

#define PROCESSES 3
#define SLOTS 2
#define NOBODY 255

short waiters;
byte count[SLOTS];         /* the part of `waiters` that each slot has */
byte holder[SLOTS];        /* process + 1; 0: free */
byte lock[SLOTS];          /* process + 1; 0: free */

byte slot_of[PROCESSES];   /* what a process has for itself, or NOBODY */
bool mutex[PROCESSES];
bool dead[PROCESSES];
byte kills = KILLS;

byte waiting[PROCESSES];   /* how many threads wait: what the count is about */

#define all_waiting (waiting[0] + waiting[1] + waiting[2])

#define keeps_its_lock(p) \
  (slot_of[p] == NOBODY || lock[slot_of[p]] == (p) + 1)

inline check() {
  assert(waiters >= all_waiting);
  assert(keeps_its_lock(0) && keeps_its_lock(1) && keeps_its_lock(2))
}

/*
** Parts of steps. To take the mutex is one step with what follows, and to give
** it back with what went before: nothing that another does in between could not
** as well come before the first, or after the second.
*/
inline mutex_lock() {
  !mutex[p] -> mutex[p] = true
}

inline mutex_unlock() {
  mutex[p] = false
}

inline lock_take(slot) {
  locked = (lock[slot] == 0 || lock[slot] == p + 1);
  if
  :: locked -> lock[slot] = p + 1
  :: !locked
  fi
}

inline lock_drop(slot) {
  if
  :: locked && lock[slot] == p + 1 -> lock[slot] = 0
  :: else
  fi;
  locked = false;
  check()
}

/* As sidecar_hold() does it. */
inline hold(slot) {
  atomic {
    mutex_lock();
    if
    :: slot_of[p] == NOBODY && holder[slot] == 0 -> lock_take(slot)
    :: else
    fi
  }
  if
  :: locked && holder[slot] == 0 ->
     count[slot] = 0;
     holder[slot] = p + 1;
     atomic { slot_of[p] = slot; locked = false; mutex_unlock() }
  :: else -> atomic { lock_drop(slot); mutex_unlock() }
  fi
}

inline wait_and_leave() {
#ifdef WRONG_SLOT_COUNTED_FIRST
  count[slot_of[p]]++;
  atomic { waiters++; waiting[p]++; check() }
#else
  atomic { waiters++; waiting[p]++; check() }
  count[slot_of[p]]++;
#endif
  /* It sleeps. */
#ifdef WRONG_SLOT_UNCOUNTED_LAST
  atomic { waiters--; waiting[p]--; check() }
  count[slot_of[p]]--
#else
  count[slot_of[p]]--;
  atomic { waiters--; waiting[p]--; check() }
#endif
}

inline discount(slot) {
#ifdef WRONG_DISCOUNTED_IN_STEPS
  gone = count[slot];
#else
  atomic { gone = count[slot]; count[slot] = 0 }
#endif
  atomic {
    waiters = (waiters > gone -> waiters - gone : 0);
    gone = 0;
    check()
  }
#ifdef WRONG_DISCOUNTED_IN_STEPS
  count[slot] = 0
#endif
}

/* As sidecar_bury() does it, some time after slot_is_dead(). */
inline bury(slot) {
  atomic {
    p != 0 && holder[slot] && holder[slot] != p + 1 && lock[slot] == 0 ->
    buried = holder[slot]
  }
  atomic {
#ifndef WRONG_BURIED_WITHOUT_MUTEX
    mutex_lock();
#endif
#ifdef WRONG_BURIED_WITHOUT_LOCK
    locked = true
#elif defined(WRONG_OWN_SLOT_BURIED)
    lock_take(slot)
#else
    /* Its lock would be taken at once, and be dropped. */
    if
    :: slot_of[p] != slot -> lock_take(slot)
    :: slot_of[p] == slot
    fi
#endif
  }
  if
  :: locked && holder[slot] == buried ->
     discount(slot);
     atomic {
       if
       :: holder[slot] == buried -> holder[slot] = 0
       :: holder[slot] != buried
       fi
     }
  :: !locked || holder[slot] != buried
  fi;
  atomic {
#ifdef WRONG_BURIED_WITHOUT_LOCK
    locked = false;
#endif
    lock_drop(slot);
#ifndef WRONG_BURIED_WITHOUT_MUTEX
    mutex_unlock();
#endif
    buried = 0
  }
}

proctype thread(byte p) {
  bool locked;
  byte buried;
  short gone;
  {
end:
    do
    :: slot_of[p] == NOBODY && holder[0] == 0 -> hold(0)
    :: slot_of[p] == NOBODY && holder[0] != 0 -> hold(1)
    :: slot_of[p] != NOBODY -> wait_and_leave()
    :: bury(0)
    :: bury(1)
    od
  } unless {
    atomic { dead[p] -> locked = false; buried = 0; gone = 0 }
  }
}

inline kill(victim) {
  d_step {
    !dead[victim] && kills > 0 ->
    kills--;
    dead[victim] = true;
    waiting[victim] = 0;
    mutex[victim] = false;
    slot_of[victim] = NOBODY;
    lock[0] = (lock[0] == victim + 1 -> 0 : lock[0]);
    lock[1] = (lock[1] == victim + 1 -> 0 : lock[1])
  }
}

proctype killer() {
end:
  do
  :: kill(0)
  :: kill(1)
  :: kill(2)
  od
}

init {
  atomic {
    slot_of[0] = NOBODY;
    slot_of[1] = NOBODY;
    slot_of[2] = NOBODY;
    run thread(0);
    run thread(1);
    run thread(1);
    run thread(2);
    run killer()
  }
}
