#!/bin/sh
# Starts the server as TensorFlow Serving's image does: MODEL_NAME below MODEL_BASE_PATH on ports 8500 and 8501.
# Arguments come after these flags, so they win. `exec` makes the server the container's own process, which gets SIGTERM.
set -eu

base=${MODEL_BASE_PATH:-/models}
name=${MODEL_NAME:-model}

# The last two are those of the original's MKL image; a variable that is not set makes no flag.
exec tensorflow_model_server \
    --port=8500 \
    --rest_api_port=8501 \
    "--model_name=$name" \
    "--model_base_path=$base/$name" \
    ${TENSORFLOW_INTRA_OP_PARALLELISM:+"--tensorflow_intra_op_parallelism=$TENSORFLOW_INTRA_OP_PARALLELISM"} \
    ${TENSORFLOW_INTER_OP_PARALLELISM:+"--tensorflow_inter_op_parallelism=$TENSORFLOW_INTER_OP_PARALLELISM"} \
    "$@"
