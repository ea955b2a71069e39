# shellcheck shell=bash
# Sourced by the quickstart: a live line that says where it is and how long it will take, from the
# time that finished work took. What the commands themselves say goes to $OUT/log.txt.
#
#   TOTAL_WORK  of all stages, in any unit
#
# $OUT/stages.tsv has a line for each stage that ended or was stopped: its name, the work that it
# finished, its seconds.

mkdir -p "$OUT"
touch "$OUT/stages.tsv"
stage='' ticker=''

# Run a stage. On a terminal there is one line, always up to date; in a log one for each stage.
stage() { # NAME WORK COMMAND [ARGUMENT ...]
    stage=$1 stage_began=$SECONDS
    "${@:3}" >>"$OUT/log.txt" 2>&1 &
    local job=$!
    if [ -t 2 ]; then
        tick &
        ticker=$!
    else
        live_line >&2
    fi
    wait "$job"
    end_stage "$2"
}

end_stage() { # WORK
    if [ -n "$ticker" ]; then
        kill "$ticker"
        printf '\r\e[K' >&2
    fi
    printf '%s\t%s\t%s\n' "$stage" "$1" $((SECONDS - stage_began)) >>"$OUT/stages.tsv"
    stage='' ticker=''
}

tick() {
    while kill -0 $$; do
        printf '\r\e[K%s' "$(live_line 2>/dev/null)" >&2
        sleep 1
    done
}

# Work that is done again after an interruption counts once, the time that it took each time.
live_line() {
    local seconds work now=$((SECONDS - stage_began)) left=
    read -r seconds work < <(awk -F '\t' '
        { seconds += $3; if ($2 > work[$1]) work[$1] = $2 }
        END { for (stage in work) done += work[stage]; print seconds + 0, done + 0 }
    ' "$OUT/stages.tsv")
    if [ "$work" -gt 0 ]; then
        left=$((seconds * (TOTAL_WORK - work) / work - now))
        left=", about $(roughly $((left > 0 ? left : 0))) left"
    fi
    echo "$stage · $(exactly $((seconds + now))) so far$left"
}

exactly() { # SECONDS
    if [ "$1" -lt 60 ]; then echo "$1 s"; else echo "$(($1 / 60)) min $(($1 % 60)) s"; fi
}

roughly() { # SECONDS
    if [ "$1" -lt 90 ]; then echo "$((($1 / 10 + 1) * 10)) s"; else echo "$((($1 + 30) / 60)) min"; fi
}

# Run the function once with each argument, all of them side by side; fails, when all have ended, as
# one of them did.
side_by_side() { # FUNCTION ARGUMENT ...
    local argument worker workers=() failed=0
    for argument in "${@:2}"; do
        "$1" "$argument" &
        workers+=($!)
    done
    for worker in "${workers[@]}"; do wait "$worker" || failed=$?; done
    return "$failed"
}

# Ask the commands that a shell waits for to stop; it fails with them.
stop() { # PROCESS ...
    local process started
    for process; do
        started=$(pgrep -P "$process" || true)
        # shellcheck disable=SC2086 # one word for each process
        if [ -n "$started" ]; then stop $started; else kill "$process" 2>/dev/null || true; fi
    done
}

leave() {
    local code=$?
    [ "$code" -ne 0 ] || return 0
    trap '' HUP INT TERM
    # shellcheck disable=SC2046 # one word for each process
    [ -z "$stage" ] || { end_stage 0 && stop $(jobs -p); }
    wait
    tail -n 15 "$OUT/log.txt" >&2
    echo "stopped; the same command goes on from here (all output: $OUT/log.txt)" >&2
}
trap leave EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
