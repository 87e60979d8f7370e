-- The maximum number of running instances of one student, over all hosts; 0 is no limit. Slurm's
-- own limits per user need its accounting database, and for Slurm all instances belong to one user;
-- their names are LAB_user_STUDENT. The controller reads this file again when it changes; setup.sh
-- only writes it if it is missing. Slurm renews the list of other jobs when one has changed in a later
-- second than before, so of two starts at the same time, one may exceed the limit.
local MOST_OF_A_STUDENT = 0

-- The state of a job is in its lowest byte; the bits above are flags, for example for a host that
-- is still getting ready.
local RUNNING, STATES = 1, 256

local function student_of(name)
    return name and string.match(name, "^[a-z0-9-]+_user_(.+)$")
end

function slurm_job_submit(job, partitions, uid)
    local student = student_of(job.name)
    if MOST_OF_A_STUDENT > 0 and student then
        local count = 0
        for _, other in pairs(slurm.jobs) do
            if student_of(other.name) == student and other.job_state % STATES == RUNNING then
                count = count + 1
            end
        end
        if count >= MOST_OF_A_STUDENT then
            slurm.log_user("%s has %d instances running, which is the most that a student may have", student, count)
            return slurm.ESLURM_ACCOUNTING_POLICY or slurm.ERROR
        end
    end
    return slurm.SUCCESS
end

function slurm_job_modify()
    return slurm.SUCCESS
end

return slurm.SUCCESS
