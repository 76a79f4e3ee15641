"""What the commands of `miss` do, one module per kind of work; `orchestration.cli` names them and reads their options."""
