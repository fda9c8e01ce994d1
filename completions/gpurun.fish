# Completion of gpurun(1) for fish: verbs, options, values, jobs, and the wrapped command with its own completion.

# What fish makes by itself of a man page takes every option for one of every verb. It would be loaded at the first use of Tab,
# and stand beside what follows: it is loaded now, and taken back.
complete -C 'gpurun -' >/dev/null
complete -c gpurun -e

function __gpurun_program --description 'print the wrapped command so far, past options, -- and assignments; fail if there is none'
    set -l words (commandline -opc)[2..]
    while set -q words[1]
        switch $words[1]
            case --
                set -e words[1]
                break
            case '--*=*' '*=*'
                set -e words[1]
            case '-*'
                if contains -- $words[1] $__gpurun_valued
                    set -e words[1]
                end
                set -q words[1]; and set -e words[1]
            case '*'
                break
        end
    end
    set -q words[1]; or return 1
    string escape -- $words
end

function __gpurun_verb --description 'whether the first word is one of these verbs'
    set -l words (commandline -opc)
    set -q words[2]; and contains -- $words[2] $argv
end

function __gpurun_launch --description 'whether options of the launch form can stand here'
    set -l words (commandline -opc)
    if set -q words[2]; and contains -- $words[2] $__gpurun_verbs
        return 1
    end
    contains -- -- $words; and return 1
    not __gpurun_program >/dev/null
end

function __gpurun_first --description 'whether the first word stands here'
    test (count (commandline -opc)) -eq 1
end

function __gpurun_wraps --description 'whether the program or its arguments stand here'
    __gpurun_helps; and return 1
    set -l words (commandline -opc)
    if set -q words[2]; and contains -- $words[2] $__gpurun_verbs
        return 1
    end
    return 0
end

function __gpurun_helps --description 'whether --help stands before the cursor'
    contains -- (commandline -opc)[-1] -h --help
end

function __gpurun_wrapped --description 'complete the wrapped command as if it stood alone'
    set -l words (__gpurun_program)
    if set -q words[1]
        complete -C "$words "(commandline -ct | string escape)
    else
        set -l token (commandline -ct)
        string match -q -- '-*' $token; and return
        # The verbs have descriptions of their own.
        complete -C "$token" | string match -v -r '^(-|('(string join '|' $__gpurun_verbs)')\t)'
    end
end

function __gpurun_list --description 'complete the last element of a comma list, which may stand behind ok:'
    set -l before (string match -r '^.*[,:]' -- (commandline -ct | string replace -r '^-+[a-z]+=?' ''))
    gpurun completion $argv 2>/dev/null | string replace -r '^' "$before"
end

function __gpurun_nth --description 'whether this is the Nth word after the verb'
    test (count (commandline -opc)) -eq (math $argv[1] + 1)
end

# --- tables (compared with gpurun's own by a test)
set -g __gpurun_verbs ls kill renice pause resume why gpus set again logs wait history top web metrics doctor demo completion machine help
set -g __gpurun_valued -g --gpus -m --memory -i --device --not -p --priority -w --wait -E --conflict-exit-code -t --time --expect -a --after --give-way --signal -o --output --retries --once --once-waiting --each --array -N --name --on --slurm --sim
complete -c gpurun -f -n __gpurun_first -a ls -d 'jobs, and why they wait'
complete -c gpurun -f -n __gpurun_first -a kill -d 'end jobs, waiting or running'
complete -c gpurun -f -n __gpurun_first -a renice -d 'change the priority of jobs, at once'
complete -c gpurun -f -n __gpurun_first -a pause -d 'hold waiting jobs, pause running ones'
complete -c gpurun -f -n __gpurun_first -a resume -d 'let held and paused jobs go on'
complete -c gpurun -f -n __gpurun_first -a why -d 'why jobs wait, and what would help'
complete -c gpurun -f -n __gpurun_first -a gpus -d 'GPUs: memory, jobs, health'
complete -c gpurun -f -n __gpurun_first -a set -d 'change what a waiting job asks for'
complete -c gpurun -f -n __gpurun_first -a again -d 'run ended jobs’ commands again from here'
complete -c gpurun -f -n __gpurun_first -a logs -d 'show and follow output'
complete -c gpurun -f -n __gpurun_first -a wait -d 'wait for jobs, return the status'
complete -c gpurun -f -n __gpurun_first -a history -d 'what ran: waited, ran, memory, result'
complete -c gpurun -f -n __gpurun_first -a top -d 'live screen of GPUs and jobs; q leaves'
complete -c gpurun -f -n __gpurun_first -a web -d 'a page for the browser: GPUs, jobs, logs'
complete -c gpurun -f -n __gpurun_first -a metrics -d 'figures for Prometheus'
complete -c gpurun -f -n __gpurun_first -a doctor -d 'check the set-up'
complete -c gpurun -f -n __gpurun_first -a demo -d 'the story on simulated GPUs, in a minute'
complete -c gpurun -f -n __gpurun_first -a completion -d 'print the completion for bash, zsh or fish'
complete -c gpurun -f -n __gpurun_first -a machine -d 'one queue for everybody on this machine'
complete -c gpurun -f -n __gpurun_first -a help -d 'print help, of a verb too'
complete -c gpurun -n '__gpurun_launch' -s g -l gpus -x -a '1 2 4 8 all 0' -d 'GPUs, all or none of them (1); `all`; 0 starts at once'
complete -c gpurun -n '__gpurun_launch' -s m -l memory -x -a '4G 8G 16G 24G 40G 80G 50%' -d 'memory needed on each GPU, to share it: 6G, 50%, auto'
complete -c gpurun -n '__gpurun_launch' -l exclusive -d 'with -m: nobody else computes on its GPUs while it runs'
complete -c gpurun -n '__gpurun_launch' -s i -l device -x -a '(__gpurun_list gpus)' -d 'only these GPUs: index, UUID prefix or name glob'
complete -c gpurun -n '__gpurun_launch' -l not -x -a '(__gpurun_list gpus)' -d 'never these GPUs'
complete -c gpurun -n '__gpurun_launch' -s p -l priority -x -a 'low normal high urgent' -d 'higher runs first: -100 to 100 (0), low, high, urgent'
complete -c gpurun -n '__gpurun_launch' -s n -l nonblock -d 'give up at once instead of waiting: exit 124'
complete -c gpurun -n '__gpurun_launch' -s w -l wait -x -a '10m 1h 4h 1d' -d 'give up after waiting that long: exit 124'
complete -c gpurun -n '__gpurun_launch' -s E -l conflict-exit-code -x -d 'exit status for -n, -w and --once instead of 124'
complete -c gpurun -n '__gpurun_launch' -s t -l time -x -a '10m 1h 4h 1d' -d 'time limit: asked to end (--signal), then killed'
complete -c gpurun -n '__gpurun_launch' -l expect -x -d 'how long it may take, for the order; never ends it'
complete -c gpurun -n '__gpurun_launch' -s a -l after -x -a '(__gpurun_list jobs)' -d 'start when those ended; ok:JOB only if it succeeded'
complete -c gpurun -n '__gpurun_launch' -l give-way -x -a 'never pause suspend requeue' -d 'how it may give way: never, pause, suspend, requeue'
complete -c gpurun -n '__gpurun_launch' -s r -l restartable -d 'it may be ended and run again'
complete -c gpurun -n '__gpurun_launch' -l signal -x -a 'TERM:120 all:TERM:120 USR1:60,TERM:30 INT:60' -d 'how it is asked to end (TERM:120)'
complete -c gpurun -n '__gpurun_launch' -s d -l detach -d 'in the background; prints the job’s number'
complete -c gpurun -n '__gpurun_launch' -s o -l output -r -F -d 'output to the end of FILE; %j is the job’s number'
complete -c gpurun -n '__gpurun_launch' -l retries -x -d 'run again after a failure, at most N times'
complete -c gpurun -n '__gpurun_launch' -l once -x -d 'not while a job of that KEY waits or runs: exit 124'
complete -c gpurun -n '__gpurun_launch' -l once-waiting -x -d 'not while one of that KEY waits; after those that run'
complete -c gpurun -n '__gpurun_launch' -l each -r -F -d 'sweep: a job for each line of FILE, or of - (input)'
complete -c gpurun -n '__gpurun_launch' -l array -x -d 'sweep: a job for each GPURUN_INDEX, 1-20%4: 4 at once'
complete -c gpurun -n '__gpurun_launch' -s N -l name -x -d 'name of the job'
complete -c gpurun -n '__gpurun_launch' -s q -l quiet -d 'say nothing while waiting'
complete -c gpurun -n '__gpurun_launch' -s v -l verbose -d 'say what was granted, and wait aloud'
complete -c gpurun -n '__gpurun_launch' -l dry-run -d 'say what would happen, and do nothing'
complete -c gpurun -n '__gpurun_launch' -l on -x -a 'here slurm' -d 'where it runs: here, or slurm: Slurm queues and runs it'
complete -c gpurun -n '__gpurun_launch' -l slurm -x -d 'with --on slurm: ARG goes to srun or sbatch as it is'
complete -c gpurun -n '__gpurun_launch' -l sim -x -a '1x24G 2x24G 4x80G' -d 'on simulated GPUs, 2x24G say: a world of its own'
complete -c gpurun -n '__gpurun_launch' -s h -l help -d 'print help; --help all prints all options'
complete -c gpurun -n '__gpurun_launch' -s V -l version -d 'print the version'
complete -c gpurun -n '__gpurun_verb ls' -s a -l all -d 'ended ones too'
complete -c gpurun -n '__gpurun_verb ls' -s w -l watch -d 'stay on the screen; q leaves'
complete -c gpurun -n '__gpurun_verb ls' -s u -l user -x -a '(__fish_complete_users)' -d 'only the jobs of USER'
complete -c gpurun -n '__gpurun_verb ls' -l json -d 'JSON, never cut or coloured'
complete -c gpurun -n '__gpurun_verb ls' -l sim -x -a '1x24G 2x24G 4x80G' -d 'on simulated GPUs, 2x24G say: a world of its own'
complete -c gpurun -n '__gpurun_verb ls' -s h -l help -d 'print help'
complete -c gpurun -n '__gpurun_verb kill' -s s -l signal -x -a 'TERM KILL INT HUP USR1 USR2 STOP CONT' -d 'send this signal instead; also -9, -KILL'
complete -c gpurun -n '__gpurun_verb kill' -l all -d 'all jobs of mine'
complete -c gpurun -n '__gpurun_verb kill' -l requeue -d 'end it, and run it again when there is room (-r)'
complete -c gpurun -n '__gpurun_verb kill' -s y -l yes -d 'do not ask'
complete -c gpurun -n '__gpurun_verb kill' -l sim -x -a '1x24G 2x24G 4x80G' -d 'on simulated GPUs, 2x24G say: a world of its own'
complete -c gpurun -n '__gpurun_verb kill' -s h -l help -d 'print help'
complete -c gpurun -n '__gpurun_verb renice' -l by -x -a '10 -10' -d 'change by N instead'
complete -c gpurun -n '__gpurun_verb renice' -l all -d 'all jobs of mine'
complete -c gpurun -n '__gpurun_verb renice' -l sim -x -a '1x24G 2x24G 4x80G' -d 'on simulated GPUs, 2x24G say: a world of its own'
complete -c gpurun -n '__gpurun_verb renice' -s h -l help -d 'print help'
complete -c gpurun -n '__gpurun_verb pause' -l all -d 'all jobs of mine'
complete -c gpurun -n '__gpurun_verb pause' -l sim -x -a '1x24G 2x24G 4x80G' -d 'on simulated GPUs, 2x24G say: a world of its own'
complete -c gpurun -n '__gpurun_verb pause' -s h -l help -d 'print help'
complete -c gpurun -n '__gpurun_verb resume' -l all -d 'all jobs of mine'
complete -c gpurun -n '__gpurun_verb resume' -l sim -x -a '1x24G 2x24G 4x80G' -d 'on simulated GPUs, 2x24G say: a world of its own'
complete -c gpurun -n '__gpurun_verb resume' -s h -l help -d 'print help'
complete -c gpurun -n '__gpurun_verb why' -l sim -x -a '1x24G 2x24G 4x80G' -d 'on simulated GPUs, 2x24G say: a world of its own'
complete -c gpurun -n '__gpurun_verb why' -s h -l help -d 'print help'
complete -c gpurun -n '__gpurun_verb gpus' -l json -d 'JSON, never cut or coloured'
complete -c gpurun -n '__gpurun_verb gpus' -l sim -x -a '1x24G 2x24G 4x80G' -d 'on simulated GPUs, 2x24G say: a world of its own'
complete -c gpurun -n '__gpurun_verb gpus' -s h -l help -d 'print help'
complete -c gpurun -n '__gpurun_verb set' -s g -l gpus -x -a '1 2 4 8 all 0' -d 'GPUs, all or none of them (1); `all`; 0 starts at once'
complete -c gpurun -n '__gpurun_verb set' -s m -l memory -x -a '4G 8G 16G 24G 40G 80G 50%' -d 'memory needed on each GPU, to share it: 6G, 50%, auto'
complete -c gpurun -n '__gpurun_verb set' -l exclusive -d 'with -m: nobody else computes on its GPUs while it runs'
complete -c gpurun -n '__gpurun_verb set' -s i -l device -x -a '(__gpurun_list gpus)' -d 'only these GPUs: index, UUID prefix or name glob'
complete -c gpurun -n '__gpurun_verb set' -l not -x -a '(__gpurun_list gpus)' -d 'never these GPUs'
complete -c gpurun -n '__gpurun_verb set' -s p -l priority -x -a 'low normal high urgent' -d 'higher runs first: -100 to 100 (0), low, high, urgent'
complete -c gpurun -n '__gpurun_verb set' -s w -l wait -x -a '10m 1h 4h 1d' -d 'give up after waiting that long: exit 124'
complete -c gpurun -n '__gpurun_verb set' -s t -l time -x -a '10m 1h 4h 1d' -d 'time limit: asked to end (--signal), then killed'
complete -c gpurun -n '__gpurun_verb set' -s N -l name -x -d 'name of the job'
complete -c gpurun -n '__gpurun_verb set' -l all -d 'all jobs of mine'
complete -c gpurun -n '__gpurun_verb set' -l sim -x -a '1x24G 2x24G 4x80G' -d 'on simulated GPUs, 2x24G say: a world of its own'
complete -c gpurun -n '__gpurun_verb set' -s h -l help -d 'print help'
complete -c gpurun -n '__gpurun_verb again' -l failed -d 'only those that failed, of a sweep say'
complete -c gpurun -n '__gpurun_verb again' -l sim -x -a '1x24G 2x24G 4x80G' -d 'on simulated GPUs, 2x24G say: a world of its own'
complete -c gpurun -n '__gpurun_verb again' -s h -l help -d 'print help'
complete -c gpurun -n '__gpurun_verb logs' -s f -l follow -d 'go on until the jobs have ended, waiting ones too'
complete -c gpurun -n '__gpurun_verb logs' -s n -l lines -x -d 'only the last N lines of what is there'
complete -c gpurun -n '__gpurun_verb logs' -l sim -x -a '1x24G 2x24G 4x80G' -d 'on simulated GPUs, 2x24G say: a world of its own'
complete -c gpurun -n '__gpurun_verb logs' -s h -l help -d 'print help'
complete -c gpurun -n '__gpurun_verb wait' -l all -d 'all jobs of mine'
complete -c gpurun -n '__gpurun_verb wait' -l bell -d 'then ring the terminal, and have it notify you'
complete -c gpurun -n '__gpurun_verb wait' -l sim -x -a '1x24G 2x24G 4x80G' -d 'on simulated GPUs, 2x24G say: a world of its own'
complete -c gpurun -n '__gpurun_verb wait' -s h -l help -d 'print help'
complete -c gpurun -n '__gpurun_verb history' -l since -x -d 'ended since: 2d, yesterday, 14:30, 2026-11-20'
complete -c gpurun -n '__gpurun_verb history' -s u -l user -x -a '(__fish_complete_users)' -d 'only the jobs of USER'
complete -c gpurun -n '__gpurun_verb history' -s n -l lines -x -d 'only the last N'
complete -c gpurun -n '__gpurun_verb history' -l by -x -a 'user name day' -d 'sums: GPU-hours, jobs, waits by user, name or day'
complete -c gpurun -n '__gpurun_verb history' -l day -d 'the last day as a picture, a line for each GPU'
complete -c gpurun -n '__gpurun_verb history' -l replay -d 'what another order would have brought (setting order)'
complete -c gpurun -n '__gpurun_verb history' -l order -x -d 'with --replay: arrival, shortest or fair alone'
complete -c gpurun -n '__gpurun_verb history' -l plot -r -F -d 'the same into FILE.svg or FILE.png ([plot])'
complete -c gpurun -n '__gpurun_verb history' -l json -d 'JSON, never cut or coloured'
complete -c gpurun -n '__gpurun_verb history' -l sim -x -a '1x24G 2x24G 4x80G' -d 'on simulated GPUs, 2x24G say: a world of its own'
complete -c gpurun -n '__gpurun_verb history' -s h -l help -d 'print help'
complete -c gpurun -n '__gpurun_verb top' -s u -l user -x -a '(__fish_complete_users)' -d 'only the jobs of USER'
complete -c gpurun -n '__gpurun_verb top' -l sim -x -a '1x24G 2x24G 4x80G' -d 'on simulated GPUs, 2x24G say: a world of its own'
complete -c gpurun -n '__gpurun_verb top' -s h -l help -d 'print help'
complete -c gpurun -n '__gpurun_verb web' -l port -x -d 'port (8600); 0: any that is free'
complete -c gpurun -n '__gpurun_verb web' -l bind -x -d 'listen there (127.0.0.1); elsewhere with --token-file'
complete -c gpurun -n '__gpurun_verb web' -l token-file -r -F -d 'the token to ask for; made if it is not there'
complete -c gpurun -n '__gpurun_verb web' -l control -d 'the page may kill, pause, resume and renice my jobs'
complete -c gpurun -n '__gpurun_verb web' -l sim -x -a '1x24G 2x24G 4x80G' -d 'on simulated GPUs, 2x24G say: a world of its own'
complete -c gpurun -n '__gpurun_verb web' -s h -l help -d 'print help'
complete -c gpurun -n '__gpurun_verb metrics' -l listen -x -d 'serve them at [HOST]:PORT (127.0.0.1:9460)'
complete -c gpurun -n '__gpurun_verb metrics' -l textfile -r -F -d 'write them once, for node_exporter’s collector'
complete -c gpurun -n '__gpurun_verb metrics' -l sim -x -a '1x24G 2x24G 4x80G' -d 'on simulated GPUs, 2x24G say: a world of its own'
complete -c gpurun -n '__gpurun_verb metrics' -s h -l help -d 'print help'
complete -c gpurun -n '__gpurun_verb doctor' -l on -x -a 'here slurm' -d 'slurm: check what a Slurm here can do'
complete -c gpurun -n '__gpurun_verb doctor' -l sim -x -a '1x24G 2x24G 4x80G' -d 'on simulated GPUs, 2x24G say: a world of its own'
complete -c gpurun -n '__gpurun_verb doctor' -s h -l help -d 'print help'
complete -c gpurun -n '__gpurun_verb demo' -l fast -d 'without pauses for the reader'
complete -c gpurun -n '__gpurun_verb demo' -l script -d 'print a train.py to try it with'
complete -c gpurun -n '__gpurun_verb demo' -l sim -x -a '1x24G 2x24G 4x80G' -d 'on simulated GPUs, 2x24G say: a world of its own'
complete -c gpurun -n '__gpurun_verb demo' -s h -l help -d 'print help'
complete -c gpurun -n '__gpurun_verb completion' -l sim -x -a '1x24G 2x24G 4x80G' -d 'on simulated GPUs, 2x24G say: a world of its own'
complete -c gpurun -n '__gpurun_verb completion' -s h -l help -d 'print help'
complete -c gpurun -n '__gpurun_verb machine' -l force -d 'off although jobs run'
complete -c gpurun -n '__gpurun_verb machine' -l sim -x -a '1x24G 2x24G 4x80G' -d 'on simulated GPUs, 2x24G say: a world of its own'
complete -c gpurun -n '__gpurun_verb machine' -s h -l help -d 'print help'
complete -c gpurun -n '__gpurun_verb help' -l sim -x -a '1x24G 2x24G 4x80G' -d 'on simulated GPUs, 2x24G say: a world of its own'
complete -c gpurun -n '__gpurun_verb help' -s h -l help -d 'print help'
# --- end of tables

complete -c gpurun -x -n __gpurun_wraps -a '(__gpurun_wrapped)'
complete -c gpurun -x -n __gpurun_helps -a all
complete -c gpurun -f -k -n '__gpurun_verb ls kill pause resume why wait set again logs history' \
    -a '(gpurun completion names (commandline -opc)[2] 2>/dev/null; __gpurun_list jobs (commandline -opc)[2])'
complete -c gpurun -f -n '__gpurun_verb renice; and __gpurun_nth 1' -a 'low normal high urgent'
complete -c gpurun -f -k -n '__gpurun_verb renice; and not __gpurun_nth 1' \
    -a '(gpurun completion names 2>/dev/null; __gpurun_list jobs)'
complete -c gpurun -f -n '__gpurun_verb gpus; and __gpurun_nth 1' -a 'drain undrain'
complete -c gpurun -f -n '__gpurun_verb gpus; and not __gpurun_nth 1' -a '(__gpurun_list gpus)'
complete -c gpurun -f -n '__gpurun_verb completion' -a 'bash zsh fish'
complete -c gpurun -f -n '__gpurun_verb machine' -a 'on off status run'
complete -c gpurun -f -n '__gpurun_verb help' -a "all $__gpurun_verbs"
complete -c gpurun -f -n '__gpurun_verb doctor demo top web metrics'
