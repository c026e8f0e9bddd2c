/* sleep.pml - one futex, with sleepers and wakers at home and on two nodes: no wake is lost, whatever the order of steps and messages.
 *
 * The word is a semaphore: a poster adds to it and wakes one; each of two takers, at two of the places, takes one, and sleeps before while there is none.
 * Its page is at one place at a time. The steps are those of client/threads/sleep.c and compute/sleep.c: a node's stand-in at home, asked for by its
 * sleeper; FIRED and PASS; a node's own wakes, which go home unless it is alone. What the node knows of being alone holds until its page leaves: `fresh` and
 * `alone` say what the count of that says in the node. Who sleeps for ever is an invalid end state.
 *
 * -DEARLY counts that the page leaves before it cannot be written any more, -DIDLE moves a stand-in that was not asleep and has gone on as an idle one
 * meanwhile (its word is not compared again): Spin must find the wake that is lost then. */

#define HOME 2
#define PLACES 3
#define POSTS 2
#ifndef ABSENT
#define ABSENT 1 /* all three at once are too many states */
#endif
#ifndef POSTERS
#define POSTERS 1
#endif
#define NOBODY 255

byte value, taken, posted;
byte at = HOME;       /* who has the page */
bit moving;           /* it is on its way: nobody has it */
bit sleeping[PLACES]; /* in its kernel's queue, or its node's bucket */
bit queued[2];        /* the stand-in is in the queue at home */
byte fired[2];        /* times that it was woken and the node has not been told */
bit covered[2], alone[2];
#ifdef IDLE
bit idle[2];          /* the stand-in is in the queue at home, and goes on sleeping when it is woken */
#endif
byte passes[2];       /* wakes that a node had no use for */
byte where[POSTERS];
bit fresh[POSTERS], was_alone[POSTERS];

#define HAS(place) (at == place && !moving)

/* The page has left its node, as the node counts it. */
inline count() {
    if
    :: at < HOME ->
       alone[at] = 0;
       if :: where[0] == at -> fresh[0] = 0 :: else fi
#if POSTERS > 1
       ; if :: where[1] == at -> fresh[1] = 0 :: else fi
#endif
    :: else
    fi
}

inline page_get(place) {
    do
    :: atomic { HAS(place) -> break }
#ifdef EARLY
    :: atomic { !moving && at != place && !leaving -> leaving = 1; count() };
       atomic { moving = 1; leaving = 0 };
       atomic { at = place; moving = 0 }
    :: atomic { leaving && at != place -> !leaving }
#else
    :: atomic { !moving && at != place -> moving = 1; count() };
       atomic { at = place; moving = 0 }
#endif
    :: atomic { moving -> !moving }
    od
}
#ifdef EARLY
bit leaving;
#endif

/* One sleeper in the queue at home wakes, whoever it is, but not the stand-in of node `but`. Returns: ret. */
inline wake_home(but, ret) {
    atomic {
        if
        :: sleeping[HOME] -> sleeping[HOME] = 0; ret = 1
        :: queued[0] && but != 0 -> queued[0] = 0; fired[0]++; ret = 1
        :: queued[1] && but != 1 -> queued[1] = 0; fired[1]++; ret = 1
#ifdef IDLE
        :: idle[0] && but != 0 -> idle[0] = 0; ret = 1
        :: idle[1] && but != 1 -> idle[1] = 0; ret = 1
#endif
        :: !sleeping[HOME] && !(queued[0] && but != 0) && !(queued[1] && but != 1) -> ret = 0
        fi
    }
}

active [PLACES] proctype taker() {
    byte me = _pid;
    if :: me == ABSENT -> goto done :: else fi;
    do
    :: page_get(me);
       if
       :: atomic { HAS(me) && value > 0 -> value--; taken++; break }
       :: atomic { HAS(me) && value == 0 -> skip }
       :: atomic { !HAS(me) -> goto again }
       fi;
look:
       if
       :: me == HOME && HAS(me) || me < HOME && covered[me] && HAS(me) ->
          atomic {
              if
              :: !HAS(me) || (me < HOME && !covered[me]) -> goto look
              :: else -> if :: value == 0 -> sleeping[me] = 1 :: else fi
              fi
          };
          !sleeping[me]
       :: me < HOME && !covered[me] ->
          /* Home moves a stand-in there, or has one; it may not know yet that it was woken, but then FIRED comes after the answer. */
          atomic {
              if
              :: queued[me] = 1
              :: fired[me] -> skip
#ifdef IDLE
              :: !idle[me] -> idle[me] = 1; fired[me]++
#endif
              fi;
              covered[me] = 1
          };
          goto look
       :: (me == HOME || covered[me]) && !HAS(me) -> page_get(me); goto look
       fi;
again: skip
    od;
done: skip
}

/* FIRED reaches a node. */
active [2] proctype node() {
    byte me = _pid - PLACES;
end:
    do
    :: atomic { fired[me] ->
           fired[me]--;
           covered[me] = 0;
           if :: sleeping[me] -> sleeping[me] = 0 :: else -> passes[me]++ fi }
    od
}

active proctype agent() {
    byte ret;
end:
    do
    :: atomic { passes[0] -> passes[0]-- }; wake_home(0, ret)
    :: atomic { passes[1] -> passes[1]-- }; wake_home(1, ret)
    od
}

active [POSTERS] proctype poster() {
    byte me = _pid - PLACES - 3;
    byte ret;
    bit here;
    do
    :: atomic { posted == POSTS -> break }
    :: atomic { posted < POSTS -> posted++; if :: ABSENT != 0 -> where[me] = 0 :: ABSENT != 1 -> where[me] = 1 :: ABSENT != HOME -> where[me] = HOME fi };
write:
       if
       :: atomic { HAS(where[me]) -> value++ }
       :: !HAS(where[me]) -> page_get(where[me]); goto write
       fi;
       if
       :: where[me] == HOME -> wake_home(NOBODY, ret)
       :: else ->
          atomic { fresh[me] = 1; was_alone[me] = alone[where[me]] };
          atomic {
              if
              :: sleeping[where[me]] -> sleeping[where[me]] = 0; ret = 1
              :: else -> ret = was_alone[me] || (alone[where[me]] && fresh[me])
              fi
          };
          if
          :: ret -> skip
          :: else ->
             here = HAS(where[me]);
             wake_home(where[me], ret);
             atomic { if :: here && !ret -> alone[where[me]] = fresh[me] :: else fi }
          fi
       fi
    od
}
