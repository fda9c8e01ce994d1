# Completion of gpurun(1) for bash: verbs, options, values, jobs, and the wrapped command with its own completion.

# --- tables (compared with gpurun's own by a test)
__gpurun_verbs='ls kill renice pause resume why gpus set again logs wait history top web metrics doctor demo completion machine help'
__gpurun_options='-g --gpus -m --memory --exclusive -i --device --not -p --priority -n --nonblock -w --wait -E --conflict-exit-code -t --time --expect -a --after --give-way -r --restartable --signal -d --detach -o --output --retries --once --once-waiting --each --array -N --name -q --quiet -v --verbose --dry-run --on --slurm --sim -h --help -V --version'
__gpurun_valued='-g --gpus -m --memory -i --device --not -p --priority -w --wait -E --conflict-exit-code -t --time --expect -a --after --give-way --signal -o --output --retries --once --once-waiting --each --array -N --name --on --slurm --sim'
__gpurun_valued_ls='-u --user --sim'
__gpurun_options_ls='-a --all -w --watch -u --user --json --sim -h --help'
__gpurun_valued_kill='-s --signal --sim'
__gpurun_options_kill='-s --signal --all --requeue -y --yes --sim -h --help'
__gpurun_valued_renice='--by --sim'
__gpurun_options_renice='--by --all --sim -h --help'
__gpurun_valued_pause='--sim'
__gpurun_options_pause='--all --sim -h --help'
__gpurun_valued_resume='--sim'
__gpurun_options_resume='--all --sim -h --help'
__gpurun_valued_why='--sim'
__gpurun_options_why='--sim -h --help'
__gpurun_valued_gpus='--sim'
__gpurun_options_gpus='--json --sim -h --help'
__gpurun_valued_set='-g --gpus -m --memory -i --device --not -p --priority -w --wait -t --time -N --name --sim'
__gpurun_options_set='-g --gpus -m --memory --exclusive -i --device --not -p --priority -w --wait -t --time -N --name --all --sim -h --help'
__gpurun_valued_again='--sim'
__gpurun_options_again='--failed --sim -h --help'
__gpurun_valued_logs='-n --lines --sim'
__gpurun_options_logs='-f --follow -n --lines --sim -h --help'
__gpurun_valued_wait='--sim'
__gpurun_options_wait='--all --bell --sim -h --help'
__gpurun_valued_history='--since -u --user -n --lines --by --order --plot --sim'
__gpurun_options_history='--since -u --user -n --lines --by --day --replay --order --plot --json --sim -h --help'
__gpurun_valued_top='-u --user --sim'
__gpurun_options_top='-u --user --sim -h --help'
__gpurun_valued_web='--port --bind --token-file --sim'
__gpurun_options_web='--port --bind --token-file --control --sim -h --help'
__gpurun_valued_metrics='--listen --textfile --sim'
__gpurun_options_metrics='--listen --textfile --sim -h --help'
__gpurun_valued_doctor='--on --sim'
__gpurun_options_doctor='--on --sim -h --help'
__gpurun_valued_demo='--sim'
__gpurun_options_demo='--fast --script --sim -h --help'
__gpurun_valued_completion='--sim'
__gpurun_options_completion='--sim -h --help'
__gpurun_valued_machine='--sim'
__gpurun_options_machine='--force --sim -h --help'
__gpurun_valued_help='--sim'
__gpurun_options_help='--sim -h --help'
# --- end of tables

__gpurun_reply() {  # word list, one a line, each `word` or `word<tab>description`; $2 the word to complete
    local line word quoted reply=()
    while IFS= read -r line; do
        word=${line%%$'\t'*}
        printf -v quoted %q "$word"  # names may hold anything, and readline inserts it as it is
        [[ $word == "$2"* || $quoted == "$2"* ]] && [[ $word ]] && reply+=("$quoted${line#"$word"}")
    done <<< "$1"
    if (( ${#reply[@]} == 1 )) || [[ ${COMP_TYPE-} == 37 ]]; then
        COMPREPLY=("${reply[@]%%$'\t'*}")  # about to be inserted: without its description
    else
        COMPREPLY=("${reply[@]//$'\t'/  }")
    fi
    compopt -o nosort 2> /dev/null
}

__gpurun_words() {  # complete $2 from the words in $1
    local IFS=$' \n'
    COMPREPLY=($(compgen -W "$1" -- "$2"))
}

__gpurun_files() {
    compopt -o filenames 2> /dev/null
    local IFS=$'\n'
    COMPREPLY=($(compgen -f -- "$1"))
}

__gpurun_value() {  # complete $2 as a value of the option named $1
    case $1 in
        -g | --gpus) __gpurun_words '1 2 4 8 all 0' "$2" ;;
        -m | --memory) __gpurun_words '4G 8G 16G 24G 40G 80G 50%' "$2" ;;
        -i | --device | --not) __gpurun_list "$(gpurun completion gpus 2> /dev/null)" "$2" ;;
        -p | --priority) __gpurun_words 'low normal high urgent' "$2" ;;
        -w | --wait | -t | --time) __gpurun_words '10m 1h 4h 1d' "$2" ;;
        -a | --after) __gpurun_list "$(gpurun completion jobs 2> /dev/null)" "$2" ;;
        --on) __gpurun_words 'here slurm' "$2" ;;
        --give-way) __gpurun_words 'never pause suspend requeue' "$2" ;;
        --signal) __gpurun_words 'TERM:120 all:TERM:120 USR1:60,TERM:30 INT:60' "$2" ;;
        -s) __gpurun_words 'TERM KILL INT HUP USR1 USR2 STOP CONT' "$2" ;;
        -o | --output | --each | --plot | --token-file | --textfile) __gpurun_files "$2" ;;
        -u | --user) COMPREPLY=($(compgen -u -- "$2")) ;;
        --sim) __gpurun_words '1x24G 2x24G 4x80G' "$2" ;;
        --by) if [[ ${COMP_WORDS[1]} == history ]]; then __gpurun_words 'user name day' "$2"; else __gpurun_words '10 -10' "$2"; fi ;;
    esac
}

__gpurun_list() {  # complete the last element of a comma list, which may stand behind ok:
    local last=${2##*[,:]}
    __gpurun_reply "$1" "$last"
    COMPREPLY=("${COMPREPLY[@]/#/${2%"$last"}}")
}

__gpurun_after() {  # complete the jobs of -a: readline breaks words at the colon of ok:, and replaces what is behind it
    local typed=${COMP_LINE:0:COMP_POINT}
    typed=${typed##*[[:space:]]}
    typed=${typed#--after=}
    __gpurun_value -a "$typed"
    [[ $COMP_WORDBREAKS == *:* && $typed == *:* ]] && COMPREPLY=("${COMPREPLY[@]#"${typed%"${typed##*:}"}"}")
}

__gpurun_wrapped() {  # complete the command that begins at word $1 as if it stood alone
    local from=$1
    if (( COMP_CWORD == from )); then
        compopt -o filenames 2> /dev/null
        COMPREPLY=($(compgen -c -- "${COMP_WORDS[COMP_CWORD]}"))
        return
    fi
    if declare -F _comp_command_offset > /dev/null; then _comp_command_offset "$from"; return; fi
    if declare -F _command_offset > /dev/null; then _command_offset "$from"; return; fi
    local name=${COMP_WORDS[from]} spec i skipped=0 rest
    for (( i = 0; i < from; i++ )); do
        rest=${COMP_LINE:skipped}
        rest=${rest#"${rest%%[![:space:]]*}"}
        skipped=$(( ${#COMP_LINE} - ${#rest} + ${#COMP_WORDS[i]} ))
    done
    rest=${COMP_LINE:skipped}
    rest=${rest#"${rest%%[![:space:]]*}"}
    COMP_POINT=$(( COMP_POINT - (${#COMP_LINE} - ${#rest}) ))
    COMP_LINE=$rest
    COMP_WORDS=("${COMP_WORDS[@]:from}")
    COMP_CWORD=$(( COMP_CWORD - from ))
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    spec=$(complete -p "$name" 2> /dev/null || complete -p "${name##*/}" 2> /dev/null)
    if [[ -z $spec ]] && declare -F _completion_loader > /dev/null; then
        _completion_loader "${name##*/}"
        spec=$(complete -p "${name##*/}" 2> /dev/null)
    fi
    if [[ $spec == *' -F '* ]]; then
        local function=${spec#* -F }
        function=${function%% *}
        "$function" "$name" "$current" "$previous"
        [[ $spec == *' -o filenames'* ]] && compopt -o filenames 2> /dev/null
        [[ $spec == *' -o nospace'* ]] && compopt -o nospace 2> /dev/null
        (( ${#COMPREPLY[@]} )) || [[ $spec != *'default'* ]] || __gpurun_files "$current"
    elif [[ $spec == *' -W '* ]]; then
        local words=${spec#* -W \'}
        __gpurun_words "${words%%\'*}" "$current"
    else
        __gpurun_files "$current"
    fi
}

__gpurun_option() {  # the option before the cursor takes a value: complete it, true if so
    local table=$1 current=$2 previous=$3
    if [[ $current == --*=* ]]; then  # where `=` does not break words
        __gpurun_value "${current%%=*}" "${current#*=}"
        COMPREPLY=("${COMPREPLY[@]/#/${current%%=*}=}")
        return 0
    fi
    if [[ $current == '=' ]]; then __gpurun_value "$previous" ''; return 0; fi
    if [[ $previous == '=' ]]; then __gpurun_value "${COMP_WORDS[COMP_CWORD - 2]}" "$current"; return 0; fi
    if [[ " $table " == *" $previous "* ]]; then __gpurun_value "$previous" "$current"; return 0; fi
    return 1
}

__gpurun_verb() {
    local verb=$1 current=$2 previous=$3 options=__gpurun_options_$1 valued=__gpurun_valued_$1
    [[ $verb == kill && $previous == --signal ]] && previous=-s
    __gpurun_option "${!valued}" "$current" "$previous" && return
    if [[ $current == -* ]]; then __gpurun_words "${!options}" "$current"; return; fi
    case $verb in
        ls | kill | pause | resume | why | wait | set | again | logs | history)
            if [[ $current == [0-9]* || -z $current ]]; then
                __gpurun_list "$(gpurun completion jobs "$verb" 2> /dev/null)" "$current"
            else
                __gpurun_reply "$(gpurun completion names "$verb" 2> /dev/null)" "$current"
            fi ;;
        renice)
            if (( COMP_CWORD == 2 )); then __gpurun_words 'low normal high urgent' "$current"
            else __gpurun_verb wait "$current" ''; fi ;;
        gpus)
            if (( COMP_CWORD == 2 )); then __gpurun_words 'drain undrain' "$current"
            else __gpurun_list "$(gpurun completion gpus 2> /dev/null)" "$current"; fi ;;
        completion) __gpurun_words 'bash zsh fish' "$current" ;;
        machine) __gpurun_words 'on off status run' "$current" ;;
        help) __gpurun_words "all $__gpurun_verbs" "$current" ;;
    esac
}

_gpurun() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} at=1 word
    COMPREPLY=()
    if (( COMP_CWORD > 1 )) && [[ " $__gpurun_verbs " == *" ${COMP_WORDS[1]} "* ]]; then
        __gpurun_verb "${COMP_WORDS[1]}" "$current" "$previous"
        return
    fi
    while (( at < COMP_CWORD )); do  # find the program, past options, their values, -- and assignments
        word=${COMP_WORDS[at]}
        case $word in
            --) (( at++ )); break ;;
            --*) (( at++ ))
                if [[ ${COMP_WORDS[at]-} == '=' ]]; then (( at += 2 ))
                elif [[ " $__gpurun_valued " == *" $word "* ]]; then (( at++ )); fi
                while [[ ${COMP_WORDS[at]-} == : ]]; do (( at += 2 )); done ;;
            -?*) [[ " $__gpurun_valued " == *" -${word: -1} "* && ! " $__gpurun_valued " == *" ${word:0:2} "* || \
                    " $__gpurun_valued " == *" $word "* ]] && (( at++ ))
                (( at++ ))
                while [[ ${COMP_WORDS[at]-} == : ]]; do (( at += 2 )); done ;;
            [A-Za-z_]*=*) (( at++ )) ;;
            *) [[ ${COMP_WORDS[at + 1]-} == '=' ]] || break
                (( at += 3 )) ;;
        esac
    done
    if (( at > COMP_CWORD )) && [[ $word == -a || $word == --after ]]; then __gpurun_after; return; fi
    if (( COMP_CWORD == 2 )) && [[ $previous == -h || $previous == --help ]]; then __gpurun_words all "$current"; return; fi
    if (( at < COMP_CWORD )) || [[ $previous == -- ]]; then __gpurun_wrapped "$at"; return; fi
    __gpurun_option "$__gpurun_valued" "$current" "$previous" && return
    if [[ $current == -* ]]; then __gpurun_words "$__gpurun_options" "$current"; return; fi
    __gpurun_wrapped "$COMP_CWORD"
    if (( COMP_CWORD == 1 )); then
        local IFS=$' \n'
        COMPREPLY=($(compgen -W "$__gpurun_verbs" -- "$current") "${COMPREPLY[@]}")
        [[ $current ]] || COMPREPLY=($__gpurun_verbs)
    fi
}

complete -F _gpurun gpurun
