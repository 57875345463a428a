# bash completion for puna, printed by 'puna completions bash'.
_puna() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}
    local IFS=$' \t\n' flags= at=1 i
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W 'run map choose chat tokens embed nearest rerank render replay list ls show pull outdated push create cp rm verify gc du path cache export import bench config doctor serve start env ps stop help version completions man --help --version' -- "$word"))
        return
    fi
    if [ "$word" = = ]; then
        word=
    elif [ "$before" = = ]; then
        before=${COMP_WORDS[COMP_CWORD-2]}
    fi
    case $command,$before in
        *,-o|*,--option) compopt -o nospace 2>/dev/null; COMPREPLY=($(compgen -W 'num_ctx= num_batch= num_gpu= main_gpu= use_mmap= use_mlock= adapter_scale= num_thread= draft_num_predict= num_keep= seed= num_predict= top_k= top_p= min_p= typical_p= repeat_last_n= temperature= repeat_penalty= presence_penalty= frequency_penalty= stop= reasoning_budget= parse_special=' -- "$word")); return ;;
        run,--overflow) COMPREPLY=($(compgen -W 'error head tail middle reduce' -- "$word")); return ;;
        run,--think) COMPREPLY=($(compgen -W 'true false low medium high max' -- "$word")); return ;;
        run,--encoding) COMPREPLY=($(compgen -W 'strict replace latin1' -- "$word")); return ;;
        run,--tool-choice) COMPREPLY=($(compgen -W 'auto none required' -- "$word")); return ;;
        run,--format) COMPREPLY=($(compgen -W 'json' -- "$word")); return ;;
        run,--extract) COMPREPLY=($(compgen -W 'first last all' -- "$word")); return ;;
        run,--pull) COMPREPLY=($(compgen -W 'missing always never' -- "$word")); return ;;
        run,--truncate) COMPREPLY=($(compgen -W 'true false' -- "$word")); return ;;
        run,--log) COMPREPLY=($(compgen -W 'off warn debug' -- "$word")); return ;;
        map,--encoding) COMPREPLY=($(compgen -W 'strict replace latin1' -- "$word")); return ;;
        map,--format) COMPREPLY=($(compgen -W 'json' -- "$word")); return ;;
        map,--overflow) COMPREPLY=($(compgen -W 'error head tail middle' -- "$word")); return ;;
        map,--think) COMPREPLY=($(compgen -W 'true false low medium high max' -- "$word")); return ;;
        map,--extract) COMPREPLY=($(compgen -W 'first last all' -- "$word")); return ;;
        choose,--encoding) COMPREPLY=($(compgen -W 'strict replace latin1' -- "$word")); return ;;
        chat,--encoding) COMPREPLY=($(compgen -W 'strict replace latin1' -- "$word")); return ;;
        chat,--think) COMPREPLY=($(compgen -W 'true false low medium high max' -- "$word")); return ;;
        chat,--tool-choice) COMPREPLY=($(compgen -W 'auto none required' -- "$word")); return ;;
        chat,--format) COMPREPLY=($(compgen -W 'json' -- "$word")); return ;;
        tokens,--encoding) COMPREPLY=($(compgen -W 'strict replace latin1' -- "$word")); return ;;
        embed,--encoding) COMPREPLY=($(compgen -W 'strict replace latin1' -- "$word")); return ;;
        rerank,--encoding) COMPREPLY=($(compgen -W 'strict replace latin1' -- "$word")); return ;;
        render,--think) COMPREPLY=($(compgen -W 'true false low medium high max' -- "$word")); return ;;
        render,--overflow) COMPREPLY=($(compgen -W 'error head tail middle' -- "$word")); return ;;
        render,--encoding) COMPREPLY=($(compgen -W 'strict replace latin1' -- "$word")); return ;;
        create,--quantize) COMPREPLY=($(compgen -W 'F32 F16 Q4_0 Q4_1 Q8_0 Q5_0 Q5_1 Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K IQ2_XXS IQ2_XS Q2_K_S IQ3_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ3_M IQ2_S IQ2_M IQ4_XS IQ1_M BF16 TQ1_0 TQ2_0 MXFP4_MOE NVFP4 Q1_0 Q2_0' -- "$word")); return ;;
        serve,--sandbox|start,--sandbox) COMPREPLY=($(compgen -W 'auto on off' -- "$word")); return ;;
        serve,--log|start,--log) COMPREPLY=($(compgen -W 'off warn debug' -- "$word")); return ;;
        *,--access-log|*,--api-key-file|*,--attach|*,--continue|*,--file|*,--grammar|*,--jinja|*,--locked|*,--messages|*,--questions|*,--record|*,--resume|*,--schema|*,--socket|*,--template|*,--tools|*,--transcript|*,-a|*,-f) COMPREPLY=($(compgen -f -- "$word")); return ;;
        *,--access-log|*,--add-column|*,--api-key-file|*,--attach|*,--choose|*,--continue|*,--dimensions|*,--encoding|*,--fields|*,--file|*,--format|*,--grammar|*,--head|*,--host|*,--jinja|*,--jobs|*,--keepalive|*,--limit-rate|*,--linger|*,--lock|*,--log|*,--mem-max|*,--messages|*,--model|*,--name|*,--nice|*,--num-ctx|*,--num-predict|*,--older-than|*,--option|*,--orders|*,--overflow|*,--prompt|*,--quantize|*,--question|*,--questions|*,--record|*,--resume|*,--retry|*,--runs|*,--sandbox|*,--schema|*,--seed|*,--socket|*,--split|*,--stop|*,--sure|*,--system|*,--tail|*,--temperature|*,--template|*,--threads|*,--timeout|*,--tool-choice|*,--tools|*,--top|*,--transcript|*,-Q|*,-a|*,-f|*,-j|*,-m|*,-n|*,-o|*,-p|*,-s) return ;;
    esac
    case $command in
        run) flags='--system --messages --option --seed --temperature --num-predict --num-ctx --raw --overflow --think --hidethinking --attach --encoding --tools --tool-choice --format --schema --open --grammar --fields --extract --one-line --strip --stop --whole --json --deterministic --verbose --quiet --nowordwrap --transcript --continue --record --local --linger --host --keepalive --pull --insecure --dimensions --truncate --log --timeout --threads --nice --mem-max --lock --wait --skip --retry --no-cache --help' ;;
        map) flags='--prompt --jsonl --tsv --csv --null --encoding --add-column --jobs --resume --choose --questions --sure --schema --open --format --grammar --system --option --seed --temperature --num-predict --num-ctx --overflow --stop --think --extract --fields --strip --one-line --json --host --progress --quiet --timeout --threads --nice --mem-max --lock --wait --skip --retry --no-cache --help' ;;
        choose) flags='--question --yes-no --score --questions --encoding --status --sure --orders --explain --system --option --json --host --quiet --timeout --threads --nice --mem-max --lock --wait --skip --retry --no-cache --help' ;;
        chat) flags='--jsonl --encoding --system --messages --option --seed --temperature --num-predict --num-ctx --think --tools --tool-choice --format --schema --open --grammar --stop --transcript --continue --host --quiet --timeout --threads --nice --mem-max --lock --wait --skip --retry --no-cache --help' ;;
        tokens) flags='--ids --pieces --head --tail --split --null --encoding --json --host --help' ;;
        embed) flags='--null --encoding --f32 --dimensions --option --json --host --quiet --timeout --threads --nice --mem-max --lock --wait --skip --retry --no-cache --help' ;;
        nearest) flags='--top --option --json --host --quiet --timeout --threads --nice --mem-max --lock --wait --skip --retry --no-cache --help' ;;
        rerank) flags='--top --null --encoding --option --json --host --quiet --timeout --threads --nice --mem-max --lock --wait --skip --retry --no-cache --help' ;;
        render) flags='--messages --tools --system --option --think --raw --overflow --num-ctx --template --jinja --tokens --encoding --json --host --quiet --help' ;;
        replay) flags='--print --json --quiet --timeout --threads --nice --mem-max --lock --wait --skip --retry --no-cache --help' ;;
        list|ls) flags='--json --host --quiet --help' ;;
        show) flags='--json --verbose --modelfile --parameters --system --template --license --host --help' ;;
        pull) flags='--all --check --replace --name --limit-rate --locked --insecure --host --json --quiet --help' ;;
        outdated) flags='--insecure --json --quiet --help' ;;
        push) flags='--insecure --host --json --quiet --help' ;;
        create) flags='--file --link --quantize --requantize --host --quiet --help' ;;
        cp) flags='--host --help' ;;
        rm) flags='--force --host --help' ;;
        verify) flags='--repair --insecure --json --quiet --help' ;;
        gc) flags='--dry-run --older-than --replaced --json --quiet --help' ;;
        du) flags='--json --help' ;;
        path) flags='--loaded --projector --json --help' ;;
        cache) flags='--json --help' ;;
        export) flags='--help' ;;
        import) flags='--replace --quiet --help' ;;
        bench) flags='--prompt --num-predict --runs --tune --option --json --help' ;;
        config) flags='--json --help' ;;
        doctor) flags='--json --host --help' ;;
        serve|start) flags='--host --socket --no-socket --no-tcp --api-key-file --open --deterministic --access-log --sandbox --linger --log --quiet --help' ;;
        env) flags='--model --write --host --quiet --help' ;;
        ps) flags='--json --host --help' ;;
        stop) flags='--host --quiet --help' ;;
        help) flags='--help' ;;
        version) flags='--json --help' ;;
        completions) flags='--help' ;;
        man) flags='--help' ;;
    esac
    if [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "$flags" -- "$word"))
        return
    fi
    for ((i = 2; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
            --access-log|--add-column|--api-key-file|--attach|--choose|--continue|--dimensions|--encoding|--fields|--file|--format|--grammar|--head|--host|--jinja|--jobs|--keepalive|--limit-rate|--linger|--lock|--log|--mem-max|--messages|--model|--name|--nice|--num-ctx|--num-predict|--older-than|--option|--orders|--overflow|--prompt|--quantize|--question|--questions|--record|--resume|--retry|--runs|--sandbox|--schema|--seed|--socket|--split|--stop|--sure|--system|--tail|--temperature|--template|--threads|--timeout|--tool-choice|--tools|--top|--transcript|-Q|-a|-f|-j|-m|-n|-o|-p|-s) ((i++)) ;;
            -*) ;;
            *) at=2 ;;
        esac
    done
    case $command,$at in
        run,1) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -X '!*.gguf' -- "$word") $(compgen -d -S / -- "$word")) ;;
        map,1) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -X '!*.gguf' -- "$word") $(compgen -d -S / -- "$word")) ;;
        choose,1) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -X '!*.gguf' -- "$word") $(compgen -d -S / -- "$word")) ;;
        chat,1) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -X '!*.gguf' -- "$word") $(compgen -d -S / -- "$word")) ;;
        tokens,1) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -X '!*.gguf' -- "$word") $(compgen -d -S / -- "$word")) ;;
        tokens,2) COMPREPLY=($(compgen -f -- "$word")) ;;
        embed,1) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -X '!*.gguf' -- "$word") $(compgen -d -S / -- "$word")) ;;
        nearest,1) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -X '!*.gguf' -- "$word") $(compgen -d -S / -- "$word")) ;;
        rerank,1) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -X '!*.gguf' -- "$word") $(compgen -d -S / -- "$word")) ;;
        render,1) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -X '!*.gguf' -- "$word") $(compgen -d -S / -- "$word")) ;;
        replay,1) COMPREPLY=($(compgen -f -- "$word")) ;;
        list,1|ls,1) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word")) ;;
        show,1) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -X '!*.gguf' -- "$word") $(compgen -d -S / -- "$word")) ;;
        pull,1) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word")) ;;
        pull,2) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word")) ;;
        outdated,1) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word")) ;;
        outdated,2) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word")) ;;
        push,1) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word")) ;;
        create,1) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word")) ;;
        cp,1) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word")) ;;
        cp,2) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word")) ;;
        rm,1) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word")) ;;
        rm,2) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word")) ;;
        verify,1) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word")) ;;
        verify,2) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word")) ;;
        path,1) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -X '!*.gguf' -- "$word") $(compgen -d -S / -- "$word")) ;;
        cache,1) COMPREPLY=($(compgen -W 'ls rm stat' -- "$word")) ;;
        cache,2) COMPREPLY=($(compgen -W "$(puna cache ls 2>/dev/null | cut -f1)" -- "$word")) ;;
        export,1) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word")) ;;
        export,2) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word")) ;;
        bench,1) COMPREPLY=($(compgen -W "$(puna ls 2>/dev/null | cut -f1)" -- "$word") $(compgen -f -X '!*.gguf' -- "$word") $(compgen -d -S / -- "$word")) ;;
        config,1) COMPREPLY=($(compgen -W "$(puna config 2>/dev/null | cut -f1)" -- "$word")) ;;
        env,1) COMPREPLY=($(compgen -W 'claude codex opencode pi cline aider continue zed goose open-webui openai anthropic ollama' -- "$word")) ;;
        ps,1) COMPREPLY=($(compgen -W "$(puna ps 2>/dev/null | cut -f1)" -- "$word")) ;;
        stop,1) COMPREPLY=($(compgen -W "$(puna ps 2>/dev/null | cut -f1)" -- "$word")) ;;
        help,1) COMPREPLY=($(compgen -W 'run map choose chat tokens embed nearest rerank render replay list ls show pull outdated push create cp rm verify gc du path cache export import bench config doctor serve start env ps stop help version completions man' -- "$word")) ;;
        completions,1) COMPREPLY=($(compgen -W 'bash zsh fish' -- "$word")) ;;
        man,1) COMPREPLY=($(compgen -W 'run map choose chat tokens embed nearest rerank render replay list ls show pull outdated push create cp rm verify gc du path cache export import bench config doctor serve start env ps stop help version completions man config.5 modelfile.5 scripting.7 api.7' -- "$word")) ;;
    esac
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//:/}
complete -F _puna puna
